"""Our adapters against those of LIFT_SS's reference implementation: the same weights, the hidden states compared.

The reference needs adapter-transformers 3.2.1, which replaces transformers, so it runs in an environment of its own:

    python -m venv reference && reference/bin/pip install torch==2.13.0 "numpy<2"
    reference/bin/pip install adapter-transformers==3.2.1 "huggingface_hub<0.14"
    git clone https://github.com/fengtuan/LIFT_SS checkout && git -C checkout checkout da0319f
    python benchmarks/reference_adapters.py checkout reference/bin/python --write

For each preset it prints the largest difference of a hidden state, relative to the largest hidden state, and the
number of parameters of both. `--write` records them, and some of the reference's hidden states, in
benchmarks/reference_adapters.json, which the tests compare with our presets. The configurations are those that the
reference's own script builds from its command line; nothing of it is copied here.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = "train_LIFT_SS_DML.py"  # of the reference; its command line chooses the adapter
RECORD = Path(__file__).with_suffix(".json")
# The reference's arguments for each of our presets.
PRESETS = {
    "bottleneck": ["bottleneck"],
    "bottleneck_attention": ["bottleneck", "--adapter_type", "1"],
    "bottleneck_both": ["bottleneck", "--adapter_type", "2"],
    "parallel_bottleneck": ["parallel_bottleneck"],
    "compacter": ["compacter"],
    "parallel_compacter": ["parallel_compacter"],
    "lora": ["lora"],
    "lora_ff": ["lora", "--lora_type", "FF"],
    "ia3": ["ia3"],
    "prefix_tuning": ["prefix_tuning"],
    "mam": ["mam_adapter"],
    "unipelt": ["unipelt"],
}
# ProtT5's proportions but for the size: a bottleneck of 4 at the reduction factor 64, attention as wide as the backbone
# (adapter-transformers 3.2.1 mixes the two up in prefixes). No dropout.
SIZES = {
    "vocab_size": 30,
    "d_model": 256,
    "d_kv": 32,
    "num_heads": 8,
    "d_ff": 512,
    "num_layers": 2,
    "dropout_rate": 0.0,
}
NUM_RESIDUES = 40
NUM_RECORDED = 8  # hidden states
# Their names of parameters in ours: patterns and what replaces them.
NAMES = {
    r"adapter_norm_before\.": "adapter_down.0.",
    r".*\.prefix_tuning\.pool\.": "prefix_tuning.",  # every block registers the one pool
}
DECODER = r"decoder|\.self_prefix\."  # its parameters
OWNERS = "adapters|loras|prefix_tunings|prefix_gates|shared_parameters"  # what has a part for each adapter by name


# ---- in the reference's environment --------------------------------------------------------------------------------


def reference_config(checkout: Path, arguments: list[str]):
    """Return the adapter configuration that the reference's script builds from its arguments, and its name."""
    theirs = importlib.import_module("transformers.adapters")
    tree = ast.parse((checkout / SCRIPT).read_text("utf-8"))

    def builds_configuration(statement: ast.stmt) -> bool:
        text = ast.unparse(statement)
        if isinstance(statement, ast.If):
            return ast.unparse(statement.test).startswith("args.adapter ==")
        return text.startswith(("import argparse", "parser", "LookupChoices", "args = ", "common_path"))

    def without_leave_out(configuration):
        # LoRA and IA3 of the released library have no such option; no block is left out here.
        return lambda leave_out=(), **options: configuration(**options)

    names = {name: getattr(theirs, name) for name in ("AdapterConfig", "PrefixTuningConfig", "ConfigUnion")}
    names |= {name: without_leave_out(getattr(theirs, name)) for name in ("LoRAConfig", "IA3Config")}
    before, sys.argv = sys.argv, [SCRIPT, "--leave_out_num", "0", "--adapter", *arguments]
    body = [statement for statement in tree.body if builds_configuration(statement)]
    exec(compile(ast.Module(body, []), SCRIPT, "exec"), names)
    sys.argv = before
    return names["config"], names["adapter_name"]


def run_reference(checkout: Path, folder: Path) -> None:
    """Load the weights of `folder` into the reference's model, and write its hidden states beside them."""
    import torch
    from transformers import T5Config, T5Model

    preset = json.loads((folder / "preset.json").read_text())
    config, name = reference_config(checkout, PRESETS[preset])
    # The encoder alone gets no adapters in the released library; the decoder is not looked at.
    model = T5Model(T5Config(**SIZES, num_decoder_layers=1)).eval()
    model.add_adapter(name, config=config)
    model.train_adapter(name)
    weights = torch.load(folder / "weights.pt")
    found = {}
    for parameter_name, parameter in model.named_parameters():
        if re.search(DECODER, parameter_name):
            continue
        ours = re.sub(rf"({OWNERS})\.{name}\.", r"\1.secondary_structure.", parameter_name)
        for old, new in NAMES.items():
            ours = re.sub(old, new, ours)
        if ours not in weights:
            sys.exit(f"{preset}: {parameter_name} of the reference is not in our model")
        with torch.no_grad():
            parameter.copy_(weights.pop(ours))
        if parameter.requires_grad:
            found[parameter_name] = parameter.numel()
    if weights:
        sys.exit(f"{preset}: {next(iter(weights))} of our model is not in the reference")
    with torch.no_grad():
        input_ids = torch.load(folder / "input_ids.pt")
        hidden = model(input_ids=input_ids, decoder_input_ids=input_ids[:, :1]).encoder_last_hidden_state
    torch.save({"hidden": hidden, "parameters": sum(found.values())}, folder / "reference.pt")


# ---- in ours -------------------------------------------------------------------------------------------------------


def save_backbone(folder: Path) -> None:
    """Write a T5 encoder of the sizes above."""
    from transformers import T5Config, T5EncoderModel

    T5EncoderModel(T5Config(**SIZES)).save_pretrained(folder)


def our_model(preset: str, backbone: Path):
    """Return our model of a preset; all its weights follow from their names' order, and none is zero."""
    import torch

    from lift_ss_hf import T5ForSecondaryStructure

    options = {"prefix_shift": True} if preset in ("prefix_tuning", "mam", "unipelt") else {}
    model = T5ForSecondaryStructure.from_backbone(str(backbone), adapter=preset, leave_out=[], head="linear", **options)
    for number, (_, parameter) in enumerate(sorted(model.backbone.named_parameters())):
        wave = torch.sin(1.7 * torch.arange(parameter.numel(), dtype=torch.float64) ** 1.1 + number)
        size = parameter.shape[-1] if parameter.dim() > 1 else 4
        parameter.data = (wave / size**0.5).reshape(parameter.shape).float()
    return model


def our_hidden_states(model):
    """Return the hidden states of a made-up chain, (1, NUM_RESIDUES, width), and its tokens."""
    import torch

    input_ids = torch.arange(NUM_RESIDUES)[None] * 7 % (SIZES["vocab_size"] - 3) + 3
    with torch.no_grad():
        return model.hidden_states(input_ids), input_ids


def recorded(hidden) -> list[float]:
    """Return some of the hidden states, evenly spaced."""
    return [float(f"{value:.5g}") for value in hidden.flatten()[:: hidden.numel() // NUM_RECORDED + 1].tolist()]


def compare(checkout: Path, python: str, preset: str, folder: Path) -> dict[str, object]:
    """Run one preset in both, with the same weights; return the difference and the numbers of parameters."""
    import torch

    save_backbone(folder / "backbone")
    model = our_model(preset, folder / "backbone")
    hidden, input_ids = our_hidden_states(model)
    torch.save({name: parameter.data for name, parameter in model.backbone.named_parameters()}, folder / "weights.pt")
    torch.save(input_ids, folder / "input_ids.pt")
    (folder / "preset.json").write_text(json.dumps(preset))
    subprocess.run([python, __file__, str(checkout), "--run", str(folder)], check=True)
    reference = torch.load(folder / "reference.pt")
    difference = (hidden - reference["hidden"]).abs().max() / reference["hidden"].abs().max()
    return {
        "difference": float(f"{difference:.1e}"),
        "parameters": model.parameter_summary()["adapter"]["trained"],
        "reference_parameters": reference["parameters"],
        "reference_hidden_states": recorded(reference["hidden"]),
    }


def main() -> None:
    """Print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of the reference implementation")
    parser.add_argument("python", nargs="?", help="Python of the environment with adapter-transformers 3.2.1")
    parser.add_argument("--write", action="store_true", help=f"record the table in {RECORD.name}")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # in the reference's environment
    arguments = parser.parse_args()
    if arguments.run:
        run_reference(arguments.checkout, arguments.run)
        return
    if not arguments.python:
        parser.error("name the Python of the reference's environment")
    table = {}
    print("| preset | difference | parameters | of the reference |\n| --- | ---: | ---: | ---: |")
    for preset in PRESETS:
        with tempfile.TemporaryDirectory() as folder:
            table[preset] = row = compare(arguments.checkout, arguments.python, preset, Path(folder))
        print(f"| {preset} | {row['difference']:.1e} | {row['parameters']:,} | {row['reference_parameters']:,} |")
    if arguments.write:
        RECORD.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
