"""Train on several processes: torchrun --nproc-per-node 2 ddp.py.  Each rank reads its slice of every global batch."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from factory.recipe import load
from factory.stream import Stream


def main() -> None:
    """One epoch; any number of processes takes the same steps."""
    dist.init_process_group("gloo")  # "nccl" on GPUs
    torch.manual_seed(0)
    stream = Stream(load(Path(__file__).with_name("decay.yaml")), "train", batch=64, seed=1)  # asks dist for its rank
    net = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    model = DistributedDataParallel(net)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for batch in stream:
        loss = torch.nn.functional.mse_loss(model(batch["signal"])[:, 0], batch["t2"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if dist.get_rank() == 0:
        print(f"{len(stream)} steps of {len(batch['t2'])} of 64 samples here, weights {net[0].weight.sum().item():.5f}")
    dist.barrier()  # nobody leaves while another is still sending
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
