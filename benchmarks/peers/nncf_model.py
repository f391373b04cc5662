"""A model quantised by NNCF, in whose environment this runs: ``python -m benchmarks.peers.nncf_model MODEL FEEDS OUT
TRANSFORMER``.

FEEDS is an .npz with the inputs of samples, called ``number:name``; OUT is the .xml that OpenVINO reads; TRANSFORMER is
1 for models that NNCF is told to be transformers, else 0.
"""
# The peer lives in an environment of its own and comes without types.
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

import sys

import numpy as np


def main() -> None:
    """Command line."""
    import nncf
    import openvino

    path, given, out, is_transformer = sys.argv[1:]
    feeds: dict[str, dict[str, np.ndarray]] = {}
    with np.load(given) as arrays:
        for key in arrays.files:
            number, _, name = key.partition(":")
            feeds.setdefault(number, {})[name] = arrays[key]
    model = openvino.Core().read_model(path)
    made = nncf.quantize(
        model,
        nncf.Dataset(list(feeds.values())),
        subset_size=len(feeds),
        model_type=nncf.ModelType.TRANSFORMER if int(is_transformer) else None,
    )
    openvino.save_model(made, out, compress_to_fp16=False)


if __name__ == "__main__":
    main()
