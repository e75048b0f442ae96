#!/usr/bin/env python3
"""What a daemon does with three times the load that it can carry, as its clients see it.

    overload.py --binary build/bin/mambad --mambactl build/bin/mambactl --model MODEL [--draft MODEL] [--rounds 5]

Rounds of three runs after each other, so that a busy machine is busy for all of them, with a daemon of their own; of each
figure the median:
  peak      half as many callers at a time as there is room for, running and waiting: nobody is refused
  callers   three times as many as there is room for, who come back when they are told to
  arrivals  three times as many requests a second as the peak had, who go away when they are refused; each answer must be there
            within a deadline, four times what it took at the peak
Exit 0 when the promises are kept: of the peak's tokens a second 95 % and more; refusals within 50 ms (99 of 100); nine of ten
hints right within a factor of two; none that was let in is late.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from server_process import ServerProcess

SLOTS, WAITING = 4, 8
CAPACITY = SLOTS + WAITING
SECONDS = 10  # of a run


def bench(options, server, *arguments, timeout=None):
    limit = ["--timeout", f"{timeout:.3f}"] if timeout else []
    command = [options.mambactl, "--address", server.address, "--json", *limit, "bench", "--seconds", str(SECONDS),
               "--prompt-tokens", "40", "--max-tokens", str(options.tokens), "--ignore-eos", *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    return json.loads(result.stdout)


def run_round(options, server, number):
    seed = ["--bench-seed", str(number)]
    peak = bench(options, server, "--concurrency", str(CAPACITY // 2), *seed)
    callers = bench(options, server, "--concurrency", str(3 * CAPACITY), "--retries", "1000", *seed)
    arrivals = bench(options, server, "--rate", f"{3 * peak['requests_per_second']:.3f}", *seed,
                     timeout=max(1, 4 * peak["e2e_ms"]["p50"] / 1e3))
    for name, run in (("peak", peak), ("callers", callers), ("arrivals", arrivals)):
        refused = run.get("refused_ms", {"p50": 0, "p99": 0, "count": 0})
        print(f"{number} {name:8} {run['tokens_per_second']:8.1f} tokens/s  first token p50 {run['ttft_ms']['p50']:7.1f} "
              f"p99 {run['ttft_ms']['p99']:7.1f} ms  refused {refused['count']:5} within p50 {refused['p50']:5.2f} "
              f"p99 {refused['p99']:5.2f} ms  hints {run['hints_within_factor_2']:4} of {run['hints']:4} right  {run['codes']}",
              flush=True)
    return peak, callers, arrivals


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("binary", "mambactl", "model"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--draft")
    parser.add_argument("--tokens", type=int, default=100, help="of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write(f"batching: {{max_sequences: {SLOTS}, max_waiting: {WAITING}}}\nlog: {{level: warning}}\n")
        config.flush()
        rounds = []
        for number in range(1, options.rounds + 1):
            server = ServerProcess(options.binary, options.model, options.draft, extra=["--config", config.name])
            try:
                rounds.append(run_round(options, server, number))
            finally:
                server.stop()

    def share(which):
        return statistics.median(each[which]["tokens_per_second"] / each[0]["tokens_per_second"] for each in rounds)

    overloaded = [run for _, *runs in rounds for run in runs]
    hints = sum(run["hints"] for run in overloaded)
    right = sum(run["hints_within_factor_2"] for run in overloaded) / max(1, hints)
    refused = statistics.median(run["refused_ms"]["p99"] for run in overloaded if "refused_ms" in run)
    late = sum(run["codes"].get("DEADLINE_EXCEEDED", 0) for run in overloaded)
    print(f"throughput beside the peak's: callers {100 * share(1):.1f} %, arrivals {100 * share(2):.1f} %; refusals p99 {refused:.2f} "
          f"ms; {100 * right:.1f} % of {hints} hints right within a factor of 2; let in and late: {late}")
    kept = min(share(1), share(2)) >= 0.95 and refused <= 50 and hints and right >= 0.9 and late == 0
    print("all promises are kept" if kept else "not all promises are kept")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
