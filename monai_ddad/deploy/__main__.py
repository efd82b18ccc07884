"""The command line: ``python -m monai_ddad.deploy -i IN -o OUT -m BUNDLE``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from monai_ddad.deploy.kinds import DEFAULT_KINDS, KINDS
from monai_ddad.io.checkpoints import CheckpointError
from monai_ddad.io.writing import private_folder

DESCRIPTION = """\
DDAD (dual-distribution discrepancy for anomaly detection): scores the DICOM studies and pictures of a folder, and
writes an overlay, a structured report and a segmentation of each DICOM image, and results.json. Not a diagnosis.

exit codes: 0 something was written of at least one image (results.json lists what was not used), 1 of none, or the
output cannot be written, 2 wrong usage, 130 stopped.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the application.

    Args:
        arguments: of the command line; None takes the program's.

    Returns:
        exit code, see :data:`DESCRIPTION`.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level, format="%(message)s")
    if not options.input.is_dir():
        return _fail("the input folder does not exist.")
    if options.output.resolve().is_relative_to(options.input.resolve()):
        return _fail("the output folder must not be the input folder or in it.")
    rules = None
    try:
        if options.rules is not None:
            rules = options.rules.read_text(encoding="utf-8")
        private_folder(options.output)
        if not os.access(options.output, os.W_OK | os.X_OK):
            return _fail("the output folder cannot be written to.")

        from monai_ddad.deploy.application import DDADApplication, whole_output
        from monai_ddad.deploy.findings import Model

        settings = {name: getattr(options, name) for name in ("alpha", "score") if getattr(options, name) is not None}
        settings |= {"precision": options.precision, "runtime": options.runtime}
        with whole_output(options.output) as output:
            model = Model(options.model, options.models_dir, options.percentile, **settings)
            application = DDADApplication(options.input, output, model, options.objects, rules, options.identifiers)
            application.run()
    except (CheckpointError, ImportError, ValueError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"a file or folder cannot be read or written: {error.strerror or type(error).__name__}.")
    except KeyboardInterrupt:
        return _fail("stopped.", 130)
    if not any(row["written"] for row in application.results):
        return _fail("no image could be scored, or nothing written of it: results.json says why.")
    return 0


def _fail(message: str, code: int = 1) -> int:
    sys.stderr.write(f"monai_ddad.deploy: {message}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m monai_ddad.deploy", description=DESCRIPTION, formatter_class=layout
    )
    folders = {"input": "HOLOSCAN_INPUT_PATH", "output": "HOLOSCAN_OUTPUT_PATH", "model": "HOLOSCAN_MODEL_PATH"}
    for name, variable in folders.items():
        default = os.environ.get(variable)
        what = "folder of the bundle" if name == "model" else f"{name} folder"
        parser.add_argument(
            f"-{name[0]}",
            f"--{name}",
            type=Path,
            default=Path(default) if default else None,
            required=not default,
            help=f"{what} (default: {variable})",
        )
    parser.add_argument("-l", "--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
    parser.add_argument("--models_dir", type=Path, help="folder of model.pt (default: the bundle's models)")
    parser.add_argument(
        "--objects", nargs="+", choices=KINDS, default=DEFAULT_KINDS, help="what to write of each DICOM image"
    )
    parser.add_argument("--percentile", type=float, default=99.0, help="of normal pixels, where the region begins")
    parser.add_argument("--alpha", type=float, help="rate of false alarms (default: the model's)")
    parser.add_argument("--score", help="the deciding score (default: the model's)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--runtime", choices=("torch", "torchscript", "onnx"), default="torch", help="what computes")
    parser.add_argument("--rules", type=Path, help="JSON file of series selection rules (default: by modality)")
    parser.add_argument("--identifiers", action="store_true", help="also write UIDs to results.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
