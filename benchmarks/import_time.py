"""What `import nlnet` costs beyond `import torch`: five differences between fresh processes, and their median.

Prints one line; exits with 1 where the median is above 0.3 s.
"""

import statistics
import subprocess
import sys

LIMIT_S = 0.3
ROUNDS = 5
TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    """The wall time of importing `module` in a fresh process."""
    command = [sys.executable, "-c", TIMED.format(module)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    seconds("nlnet")  # fills the file cache and writes the bytecode
    differences = [seconds("nlnet") - seconds("torch") for _ in range(ROUNDS)]
    median = statistics.median(differences)
    listed = ", ".join(f"{d:.3f}" for d in differences)
    print(f"import nlnet costs {median:.3f} s more than import torch (limit {LIMIT_S} s; {listed})")
    return int(median > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
