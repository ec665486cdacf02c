"""The expected speed of models beside the measured one, before any model ran here and after the others ran.

    python benchmarks/speed.py MODEL.gguf MODEL.gguf [--runs 5] [--threads 1]

The measured speed is in tokens for each second of processor time, so that other programs disturb it less. With one
thread this is what an idle machine does; the estimate is made for as many processors as there are threads.
"""

import argparse
import time
from pathlib import Path

from modeldeck.gguf.header import read_header
from modeldeck.gguf.metadata import read_metadata
from modeldeck.llama import load
from modeldeck.sizing.hardware import Hardware
from modeldeck.sizing.memory_bandwidth import measure_bandwidth
from modeldeck.sizing.speed import Speed, SpeedHistory, bandwidth_of_run, bytes_per_token, expected_speed

TOKENS = 30


def measure(path: Path, *, runs: int, threads: int) -> float:
    """Return the best of some runs, in tokens per second of processor time and thread."""
    rates = []
    with load(path, n_ctx=1024, n_threads=threads, n_threads_batch=threads) as llm:
        llm.eval([1])
        for _ in range(runs):
            before = time.process_time()
            for token in range(TOKENS):
                llm.eval([100 + token])
            rates.append(TOKENS / (time.process_time() - before) * threads)
    return max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    hardware = Hardware(ram_total=1 << 40, ram_available=1 << 40, cpu_count=arguments.threads)
    bandwidth = measure_bandwidth(arguments.threads)
    print(f"memory bandwidth {(bandwidth or 0) / 1e9:.1f} GB/s with {arguments.threads} threads")
    models = {path: read_metadata(read_header(path)) for path in arguments.paths}
    layers = {path: model.block_count or 0 for path, model in models.items()}
    sizes = {path: bytes_per_token(model, path.stat().st_size) for path, model in models.items()}
    measured = {path: measure(path, runs=arguments.runs, threads=arguments.threads) for path in arguments.paths}

    def expect(path: Path, history: SpeedHistory) -> Speed | None:
        return expected_speed(sizes[path], hardware=hardware, history=history, gpu_share=0, layer_count=layers[path])

    for path in arguments.paths:
        others = tuple(
            bandwidth_of_run(measured[other], sizes[other], layers[other]) for other in arguments.paths if other != path
        )
        before = expect(path, SpeedHistory(memory_bandwidth=bandwidth))
        after = expect(path, SpeedHistory(memory_bandwidth=bandwidth, cpu_bandwidths=others))
        print(f"{path.name}: reads {sizes[path] / 1e6:.0f} MB a token, measured {measured[path]:.1f} tokens/s")
        for name, speed in (("before anything ran", before), ("after the others ran", after)):
            if speed is not None:
                ratio = speed.tokens_per_second / measured[path]
                print(f"  {name}: {speed.tokens_per_second:.1f} tokens/s, {ratio:.2f} of the measured ({speed.source})")


if __name__ == "__main__":
    main()
