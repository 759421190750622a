"""The same run on any machine, to the byte. A deliberate change of the model changes the digest."""

import hashlib
import struct

from fleet.hardware import StepCoefficients
from simulator.cluster import Arrival, Cluster, Failure, FailureKind, round_robin
from simulator.config import EngineConfig
from simulator.engine import Engine
from simulator.sequence import EngineRequest
from simulator.steptime import StepTimer
from simulator.tiers import TIERS, Offload, Tier

EXPECTED = "e389666a5a15d999f0f6de7014ceee5c"


def requests() -> list[Arrival]:
    """Pseudo-random requests from integers alone: no logarithm of some machine's library is in them."""
    state, at_s, arrivals = 12345, 0.0, []
    for index in range(400):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        at_s += (state >> 40) % 400 / 1024
        prompt, output = 1 + (state >> 20) % 6000, 1 + (state >> 33) % 400
        group = (state >> 12) % 12
        hashes = [group * 10**6 + block if block < 200 else index * 10**8 + block for block in range(prompt // 16)]
        arrivals.append(Arrival(at_s=at_s, request=EngineRequest(
            request_id=str(index), prompt_tokens=prompt, output_tokens=output, block_hashes=hashes)))  # fmt: skip
    return arrivals


def test_outcomes_are_these_on_any_machine() -> None:
    coefficients = StepCoefficients(d0=11.2, d_s=0.0273, d_kv=8.079e-05, p0=6.29, p1=0.05, p2=2.05e-06, eta=1.2)
    config = EngineConfig(timer=StepTimer(coefficients=coefficients, layers=32), blocks=1875, max_num_seqs=256,
                          max_num_batched_tokens=2048, max_model_len=30_000)  # fmt: skip
    engines = [Engine(config, offload=Offload([Tier(TIERS["cpu_dram"], 100_000)], bytes_per_token=131_072.0))
               for _ in range(2)]  # fmt: skip
    fleet = Cluster(engines, round_robin())
    fleet.fail(Failure(at_s=20.0, engine=0, kind=FailureKind.CRASH, duration_s=10.0))
    digest = hashlib.sha256()
    for one in fleet.run(requests()):
        digest.update(struct.pack("<dd3i", one.ttft_s, one.e2e_s, one.engine, one.cached_tokens, one.output_tokens))
    assert digest.hexdigest()[:32] == EXPECTED
