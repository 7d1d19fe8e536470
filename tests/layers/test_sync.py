"""SyncBatchNorm where MPI is missing; what it does with MPI is in interop/test_sync.py."""

from tests.process import error, output

NO_MPI = "import sys; sys.modules['mpi4py'] = None; import fastbn; "


def test_without_mpi4py_the_library_works_and_the_layer_says_what_to_install():
    assert output(NO_MPI + "print(fastbn.BatchNorm(3))").startswith("BatchNorm(3")
    assert 'ImportError: SyncBatchNorm needs mpi4py and an MPI library: pip install ".[mpi]"' in error(
        NO_MPI + "fastbn.SyncBatchNorm(3)")


def test_importing_fastbn_starts_no_mpi():
    assert output("import sys, fastbn; print('mpi4py' in sys.modules)") == "False"
