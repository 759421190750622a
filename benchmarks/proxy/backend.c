/* Canned inference engines: one process, one thread, epoll; several ports, each an engine.
 *
 * usage: backend PORT...      answers on 127.0.0.1 until it is killed; prints "ready".
 *
 * POST: a body with "stream":true (or "stream": true) gets an event stream of 16 events, the first in a write of its
 * own; any other body a completion. GET: /metrics gets an idle engine's page, /v1/models one model, all else {}.
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
#include <unistd.h>

#define ROOM (1 << 17)
struct conn { int fd, listening; size_t len; char *buf; };

static char plain[4096], stream_first[1024], stream_rest[8192], metrics[2048], models[1024], empty[256];
static size_t plain_n, first_n, rest_n, metrics_n, models_n, empty_n;

static size_t canned(char *to, size_t room, const char *type, const char *body) {
    return (size_t)snprintf(to, room, "HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n%s", type,
                            strlen(body), body);
}

static void prepare(void) {
    const char *event = "data: {\"id\":\"c\",\"object\":\"text_completion\",\"model\":\"m\",\"choices\":[{\"index\":0,"
                        "\"text\":\" word\",\"finish_reason\":null}]}\n\n";
    const char *usage = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":150,\"completion_tokens\":16,"
                        "\"total_tokens\":166}}\n\n";
    const char *done = "data: [DONE]\n\n";
    plain_n = canned(plain, sizeof plain, "application/json",
        "{\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"text\":"
        "\" a b c d e f g h i j k l m n o p\",\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":150,"
        "\"completion_tokens\":16,\"total_tokens\":166}}");
    metrics_n = canned(metrics, sizeof metrics, "text/plain; version=0.0.4",
        "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name=\"m\"} 0\n"
        "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{model_name=\"m\"} 0\n"
        "# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{model_name=\"m\"} 0.1\n");
    models_n = canned(models, sizeof models, "application/json",
        "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"owned_by\":\"canned\",\"max_model_len\":8192}]}");
    empty_n = canned(empty, sizeof empty, "application/json", "{}");
    first_n = (size_t)snprintf(stream_first, sizeof stream_first,
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n%zx\r\n%s\r\n",
        strlen(event), event);
    rest_n = 0;
    for (int i = 0; i < 15; i++)
        rest_n += (size_t)sprintf(stream_rest + rest_n, "%zx\r\n%s\r\n", strlen(event), event);
    rest_n += (size_t)sprintf(stream_rest + rest_n, "%zx\r\n%s\r\n%zx\r\n%s\r\n0\r\n\r\n", strlen(usage), usage,
                              strlen(done), done);
}

static int send_all(int fd, const char *data, size_t n) {
    while (n) {
        ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) continue;
        if (sent < 0) return -1;
        data += sent;
        n -= (size_t)sent;
    }
    return 0;
}

/* Bytes of the request at the start of the buffer that were answered; 0: not whole yet; -1: close. */
static ssize_t answer(struct conn *c) {
    char *end = memmem(c->buf, c->len, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = (size_t)(end - c->buf) + 4, body = 0;
    for (char *p = c->buf; p < end; p = strchr(p, '\n') + 1)
        if (!strncasecmp(p, "content-length:", 15)) body = strtoul(p + 15, NULL, 10);
        else if (!strncasecmp(p, "transfer-encoding: chunked", 26)) { /* as Envoy sends what passed through ext_proc */
            char *last = memmem(end + 2, c->len - head + 2, "\r\n0\r\n\r\n", 7);
            if (!last) return c->len > ROOM - 1 ? -1 : 0;
            body = (size_t)(last - c->buf) + 7 - head;
        }
    if (head + body > ROOM) return -1;
    if (c->len < head + body) return 0;
    int fd = c->fd, bad;
    if (!strncmp(c->buf, "POST", 4)) {
        char *at = body ? memmem(end + 4, body, "\"stream\":", 9) : NULL;
        if (at && (at[9] == 't' || (at[9] == ' ' && at[10] == 't')))
            bad = send_all(fd, stream_first, first_n) || send_all(fd, stream_rest, rest_n);
        else
            bad = send_all(fd, plain, plain_n);
    } else if (!strncmp(c->buf, "GET /metrics", 12)) bad = send_all(fd, metrics, metrics_n);
    else if (!strncmp(c->buf, "GET /v1/models", 14)) bad = send_all(fd, models, models_n);
    else bad = send_all(fd, empty, empty_n);
    return bad ? -1 : (ssize_t)(head + body);
}

static void serve(int ep, struct conn *c) {
    if (!c->buf) c->buf = malloc(ROOM + 1);
    ssize_t got = recv(c->fd, c->buf + c->len, ROOM - c->len, 0), used = 0;
    if (got > 0) {
        c->len += (size_t)got;
        c->buf[c->len] = 0;
        while (c->len && (used = answer(c)) > 0) {
            c->len -= (size_t)used;
            memmove(c->buf, c->buf + used, c->len + 1);
        }
    }
    if (got == 0 || (got < 0 && errno != EAGAIN) || used < 0) {
        epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL);
        close(c->fd);
        free(c->buf);
        free(c);
    }
}

static void watch(int ep, int fd, int listening) {
    struct conn *c = calloc(1, sizeof *c);
    c->fd = fd;
    c->listening = listening;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
}

int main(int argc, char **argv) {
    prepare();
    int ep = epoll_create1(0), one = 1;
    for (int i = 1; i < argc; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[i])),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 1024)) { perror(argv[i]); return 1; }
        watch(ep, fd, 1);
    }
    puts("ready");
    fflush(stdout);
    struct epoll_event events[256];
    for (;;) {
        int n = epoll_wait(ep, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c->listening) { serve(ep, c); continue; }
            int fd = accept4(c->fd, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0) continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            watch(ep, fd, 0);
        }
    }
}
