/* A closed-loop HTTP load: N keep-alive connections, each sends its next request when an answer is whole.
 *
 * usage: load PORT CONNECTIONS WARM_S SECONDS STREAM(0|1) PROMPT_BYTES
 *
 * Measures from the write of a request to the first byte of its body, and to its end. Prints one JSON object; latencies
 * in microseconds. An answer other than 200, or a stream without [DONE], counts as an error. Prompts take turns in 64
 * that share their first half.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROOM (1 << 16)
#define PROMPTS 64
#define BUCKETS 200000 /* of 1 us; beyond: the last */
struct conn { int fd, framing, seen_body, ok; size_t len, head, want; double sent; char buf[ROOM + 1]; };

static char *requests[PROMPTS];
static size_t request_n[PROMPTS];
static unsigned first_us[BUCKETS + 1], whole_us[BUCKETS + 1];
static unsigned long done, errors, turn;
static int port, stream, counting, ep;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void prepare(size_t bytes) {
    char *prompt = malloc(bytes + 1), *body = malloc(bytes + 256);
    for (int i = 0; i < PROMPTS; i++) {
        for (size_t at = 0; at < bytes; at++)
            prompt[at] = at % 6 == 5 ? ' ' : (char)('a' + (at * 7 + (at >= bytes / 2 ? (size_t)i * 5 + at / 3 : 0)) % 26);
        prompt[bytes] = 0;
        int n = sprintf(body, "{\"model\":\"m\",\"prompt\":\"%s\",\"max_tokens\":16,\"stream\":%s}", prompt,
                        stream ? "true" : "false");
        requests[i] = malloc((size_t)n + 256);
        request_n[i] = (size_t)sprintf(requests[i], "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
            "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", port, n, body);
    }
}

static void count(unsigned *histogram, double s) {
    long us = (long)(s * 1e6);
    if (counting) histogram[us < 0 ? 0 : us > BUCKETS ? BUCKETS : us]++;
}

static double percentile(const unsigned *histogram, double q) {
    unsigned long total = 0, seen = 0;
    for (int i = 0; i <= BUCKETS; i++) total += histogram[i];
    if (!total) return BUCKETS; /* none came in time */
    for (int i = 0; i <= BUCKETS; i++) {
        seen += histogram[i];
        if ((double)seen >= q * (double)total) return i + 0.5;
    }
    return BUCKETS;
}

static void start(struct conn *c) {
    int i = (int)(turn++ % PROMPTS);
    c->len = c->head = c->want = 0;
    c->framing = c->seen_body = c->ok = 0;
    c->sent = now();
    if (send(c->fd, requests[i], request_n[i], MSG_NOSIGNAL) != (ssize_t)request_n[i]) errors++;
}

static void open_one(struct conn *c) {
    int one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&at, sizeof at)) { perror("connect"); exit(1); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &event);
    start(c);
}

static void read_head(struct conn *c) {
    char *end = memmem(c->buf, c->len, "\r\n\r\n", 4);
    if (!end) return;
    c->head = (size_t)(end - c->buf) + 4;
    c->ok = !strncmp(c->buf + 9, "200", 3);
    for (char *p = c->buf; p < end; p = strchr(p, '\n') + 1) {
        if (!strncasecmp(p, "content-length:", 15)) { c->framing = 1; c->want = c->head + strtoul(p + 15, NULL, 10); }
        if (!strncasecmp(p, "transfer-encoding:", 18)) c->framing = 2;
    }
}

/* Whether the answer is whole. */
static int whole(struct conn *c) {
    if (c->framing == 1) return c->len >= c->want;
    return c->len >= c->head + 5 && !memcmp(c->buf + c->len - 5, "0\r\n\r\n", 5);
}

static void serve(struct conn *c) {
    ssize_t got = recv(c->fd, c->buf + c->len, ROOM - c->len, 0);
    if (got <= 0) {
        errors++;
        close(c->fd);
        open_one(c);
        return;
    }
    c->len += (size_t)got;
    c->buf[c->len] = 0;
    if (!c->head) read_head(c);
    if (!c->head) return;
    if (!c->seen_body && c->len > c->head) {
        c->seen_body = 1;
        count(first_us, now() - c->sent);
    }
    if (!whole(c)) return;
    count(whole_us, now() - c->sent);
    if (!c->ok || (stream && !memmem(c->buf + c->head, c->len - c->head, "[DONE]", 6))) errors++;
    if (counting) done++;
    start(c);
}

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    port = atoi(argv[1]);
    int n = atoi(argv[2]);
    double warm_s = atof(argv[3]), run_s = atof(argv[4]);
    stream = atoi(argv[5]);
    prepare((size_t)atoi(argv[6]));
    ep = epoll_create1(0);
    struct conn *all = calloc((size_t)n, sizeof *all);
    for (int i = 0; i < n; i++) open_one(all + i);
    double begin = now() + warm_s, end = begin + run_s, at;
    struct epoll_event events[256];
    while ((at = now()) < end) {
        if (!counting && at >= begin) { counting = 1; errors = 0; begin = at; end = at + run_s; }
        int ready = epoll_wait(ep, events, 256, 100);
        for (int i = 0; i < ready; i++) serve(events[i].data.ptr);
    }
    printf("{\"requests\":%lu,\"seconds\":%.6f,\"errors\":%lu,\"first_p50_us\":%.1f,\"first_p99_us\":%.1f,"
           "\"p50_us\":%.1f,\"p99_us\":%.1f}\n", done, now() - begin, errors, percentile(first_us, .5),
           percentile(first_us, .99), percentile(whole_us, .5), percentile(whole_us, .99));
    return 0;
}
