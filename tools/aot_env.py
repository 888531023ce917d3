"""What jax must find in the environment before it is imported, to compile for devices that are not
there. Where it is imported already, in a test, nothing is changed."""

import os
import sys

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # where arrays that are really made lie; targets need no more
    "TPU_SKIP_MDS_QUERY": "1",  # else Google's metadata server is asked what this machine is
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process trips on a lock file
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # this one and the next only silence warnings
    "TPU_WORKER_HOSTNAMES": "localhost",
}
if "jax" not in sys.modules:
    os.environ.update(ENVIRONMENT)
