"""PyTorch: dense n x n x n product on the CPU, GFLOP/s."""

import torch

from rival_bench import measure, parser, report, setup


def main():
    options = parser(__doc__)
    options.add_argument("--n", type=int, nargs="+", default=[512, 1024, 2048])
    args = options.parse_args()
    for name, dtype in setup(args).items():
        for n in args.n:
            left, right, out = (torch.randn(n, n).to(dtype) for _ in range(3))
            with torch.inference_mode():
                times = measure(lambda _: torch.matmul(left, right, out=out), args)
            report(times, 2.0 * n**3 / 1e9, "GFLOP/s", what="matmul", n=n, dtype=name)


if __name__ == "__main__":
    main()
