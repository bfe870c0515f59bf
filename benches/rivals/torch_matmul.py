"""PyTorch: dense n x n x n product on the CPU, GFLOP/s."""

import torch

from rival_bench import measure, parser, report, setup

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def main():
    options = parser(__doc__, repeats=7)
    options.add_argument("--n", type=int, nargs="+", default=[1024])
    options.add_argument("--dtype", choices=list(TYPES), nargs="+", default=["f32"])
    args = options.parse_args()
    setup(args)
    for name in args.dtype:
        for n in args.n:
            left, right, out = (torch.randn(n, n).to(TYPES[name]) for _ in range(3))
            with torch.inference_mode():
                times = measure(lambda _: torch.matmul(left, right, out=out), args)
            report(
                times, 2.0 * n**3 / 1e9, "GFLOP/s", figure=f"product {n}", system="PyTorch",
                version=torch.__version__, model="random", weights=name, threads=torch.get_num_threads(),
            )


if __name__ == "__main__":
    main()
