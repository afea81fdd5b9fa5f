import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from iwae_lab.cpu import prepare_cpu

prepare_cpu(1)
torch.ones(12_000_000)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(12_000_000)
found = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
print(found, (torch.tensor(1e-30) * 1e-10).item(), torch.get_num_threads())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="says how glibc keeps memory")
def test_memory_is_used_again_and_denormals_are_zero() -> None:
    faults, denormal, threads = subprocess.check_output([sys.executable, "-c", FAULTS], text=True).split()
    assert int(faults) < 100, "48 MB have some 12,000 pages"
    assert float(denormal) == 0
    assert int(threads) == 1
