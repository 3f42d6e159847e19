"""Data-parallel training on several processes, on one machine or many, with MPI (``pip install "cregkit[mpi]"``).

Run a script with ``mpiexec -n 4 python -m mpi4py train.py``. It calls ``cregkit.train.fit`` in every process with the
same arguments and ``parallel=DataParallel(network)``.
"""

from cregkit.mpi.batch_norm import SyncBatchNorm, convert
from cregkit.mpi.communicator import TRAFFIC, Traffic
from cregkit.mpi.parallel import DataParallel

__all__ = ["TRAFFIC", "DataParallel", "SyncBatchNorm", "Traffic", "convert"]
