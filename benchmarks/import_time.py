"""What `import nlnet` costs beyond `import torch`: five fresh processes, each timing it once torch is there.

The public names are touched too, since they are loaded when first used. Prints one line with the median; exits with 1
where it is above 0.3 s.
"""

import statistics
import subprocess
import sys

LIMIT_S = 0.3
ROUNDS = 5
TIMED = (
    "import time, torch; start = time.perf_counter(); import nlnet; nlnet.ops, nlnet.NonLocalBlock, nlnet.build_model;"
    " print(time.perf_counter() - start)"
)


def seconds() -> float:
    """The wall time of `import nlnet` after `import torch` in a fresh process."""
    result = subprocess.run([sys.executable, "-c", TIMED], check=True, capture_output=True, text=True)
    return float(result.stdout)


def main() -> int:
    seconds()  # writes the bytecode
    times = [seconds() for _ in range(ROUNDS)]
    median = statistics.median(times)
    listed = ", ".join(f"{t:.3f}" for t in times)
    print(f"import nlnet costs {median:.3f} s more than import torch (limit {LIMIT_S} s; {listed})")
    return int(median > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
