"""The validator's kernels in torch, timed one call at a time for `make bench-kernels`.

Reads a line `topk N K`, `products N` or `read N` and writes the seconds of one call, until its input ends. The first
call of each is preceded by one that is not timed. Threads: the first argument.
"""

import sys
import time

import torch

CHUNK = 4096


def topk(n: int, k: int):
    """Values and places of the k largest of each chunk; magnitudes are taken before."""
    x = torch.randn(n // CHUNK, CHUNK).abs()
    return lambda: torch.topk(x, k, dim=1, sorted=False)


def products(n: int):
    """A dot product and both norms, each the fastest call that torch has."""
    a, b = torch.randn(n), torch.randn(n)
    return lambda: (torch.dot(a, b), torch.linalg.vector_norm(a), torch.linalg.vector_norm(b))


def read(n: int):
    """Sums of two vectors: what the memory gives."""
    a, b = torch.randn(n), torch.randn(n)
    return lambda: (a.sum(), b.sum())


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    print(torch.__version__, flush=True)
    made = {}
    for line in sys.stdin:
        name, *sizes = line.split()
        if line not in made:
            # One at a time: each holds half a gigabyte.
            made = {line: {"topk": topk, "products": products, "read": read}[name](*map(int, sizes))}
            made[line]()
        began = time.perf_counter()
        made[line]()
        print(time.perf_counter() - began, flush=True)


main()
