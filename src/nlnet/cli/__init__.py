"""The commands, one short file each: compose, call, return the metric."""

import os

# Read by OpenMP when torch is loaded. Threads that spin while they wait starve the loader's workers, and each other
# where cores are shared: on two busy cores a training that takes 6 s took 71 s without it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
