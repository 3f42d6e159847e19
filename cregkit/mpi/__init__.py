"""Training on several processes, on one machine or many, through MPI (mpi4py, ``pip install "cregkit[mpi]"``).

    mpiexec -n 4 python -m mpi4py train.py

where train.py calls ``fit`` as ever, in every process with the same arguments, and ``parallel=DataParallel(network)``.
"""

from cregkit.mpi.batch_norm import SyncBatchNorm, convert
from cregkit.mpi.communicator import TRAFFIC, Traffic
from cregkit.mpi.parallel import DataParallel

__all__ = ["TRAFFIC", "DataParallel", "SyncBatchNorm", "Traffic", "convert"]
