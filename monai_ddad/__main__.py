"""The command line: ``monai-ddad`` or ``python -m monai_ddad``; ``--help`` lists the commands."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from monai_ddad.packaged import bundle_names, copy_bundle

BENCHMARKS = ("rsna", "vindr_cxr", "cxad", "brain_tumor", "lag")  # of data.prepare.benchmarks, too slow to import

BUNDLE = """\
The folder is the bundle, to train, to change and to pass on: what runs make goes into it, too.

example:
  python -m monai_ddad bundle ddad_brain my_bundle
  python -m monai.bundle run --config_file my_bundle/train.json --dataset_dir films
"""
DATALIST = """\
The source is a folder with normal/, unlabeled/ and test/normal/, test/abnormal/ (pictures, NIfTI, DICOM files with or
without a suffix; the files of one MR, CT or PET series are one image), the authors' data.json beside images/, a MONAI
datalist, or a CSV file with a row an image.

examples:
  python -m monai_ddad datalist films --output films/datalist.json
  python -m monai_ddad datalist films --output films/datalist.json --check
  python -m monai_ddad datalist list.csv --output datalist.json --image_column path --group_column patient

A CSV file:
  image,split,label,group
  a.dcm,normal,,p1
  b.dcm,unlabeled,,p2
  c.dcm,test,1,p3
"""
AUDIT = """\
Compares and measures all images of a data set and writes a report: copies and near copies within and across training
and test, files that cannot be read, and differences between the classes that are no disease.

example:
  python -m monai_ddad audit films --output audit --strict
"""
PREPARE = """\
Makes images/ and data.json of one of the paper's benchmarks from the files as they are downloaded. The lists of images
come from the data.json that the authors of DDAD publish with their code, one for each benchmark. An interrupted call
goes on where it was.

originals:
  rsna         RSNA Pneumonia Detection Challenge (Kaggle): stage_2_train_images/*.dcm
  vindr_cxr    VinBigData Chest X-ray Abnormalities Detection (Kaggle) or VinDr-CXR (PhysioNet): train/*.dicom
  cxad         films of your own: normal/, unlabeled/normal/, unlabeled/abnormal/, test/normal/, test/abnormal/;
               --split may be left out
  brain_tumor  Brain Tumor MRI Dataset (Kaggle): Training/ and Testing/ with a folder a class
  lag          LAG database: suspicious_glaucoma/image/ and non_glaucoma/image/

examples:
  python -m monai_ddad prepare rsna downloads/rsna RSNA --split data.json
  python -m monai_ddad prepare rsna downloads/rsna RSNA_authors --split data.json --photometry authors
"""
SCORE = """\
Scores any number of images and writes a Parquet table with a row each: all scores, p-value, percentile, flag, and why
it is not of the trained kind. An interrupted call goes on where it was when the same command is given again. Files that
cannot be read are listed in a second table, scores_unreadable.parquet, and stop nothing; the exit code is 1 only where
none could be read.

examples:
  python -m monai_ddad score films --output scores.parquet --bundle bundles/ddad_cxr --models runs/mine/models
  torchrun --nproc_per_node=4 -m monai_ddad score films --output scores.parquet --bundle bundles/ddad_cxr \\
    --models runs/mine/models
"""
EXPORT = """\
Writes a trained model as one file for programs without this package: images as the bundle prepares them in, maps,
scores, p-values and the check of the input out. The suffix says which: .onnx for ONNX Runtime (needs the extra onnx),
.pt2 for PyTorch (torch.export.load). A .ts of TorchScript is made by "python -m monai.bundle ckpt_export".

example:
  python -m monai_ddad export runs/mine/models model.pt2
"""
REPORT = """\
Writes eval/report.html of a run that was evaluated, one file that any browser shows without a network, or with
--compare two runs side by side.

examples:
  python -m monai_ddad report runs/mine
  python -m monai_ddad report --compare runs/first runs/second --output comparison.html
"""
LABEL = """\
Prints where the app is installed. It serves one trained bundle; copy the folder, since MONAI Label writes into it.

example:
  cp -r "$(python -m monai_ddad label)" app
  monailabel start_server --app app --studies films --host 127.0.0.1 --conf bundle bundles/ddad_cxr \\
    --conf models runs/mine/models
"""
DEPLOY = """\
Prints where the application is that "monai-deploy package" takes. Without a container it is
"python -m monai_ddad.deploy", which --help explains.

example:
  cp -r "$(python -m monai_ddad deploy)" ddad_app
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help explains)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line; None takes the program's.

    Returns:
        exit code: 0, 1 for data that cannot be used, 130 after an interrupt. Wrong usage exits with 2.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return options.run(options)
    except OSError as error:
        return _fail(f"a file or folder cannot be read or written: {error.strerror or type(error).__name__}.")
    except KeyboardInterrupt:
        return _fail("stopped.", 130)
    except ValueError as error:
        from monai_ddad.io.errors import DataError  # quick where it is one: the command has imported it

        if not isinstance(error, DataError):
            raise
        return _fail(str(error))


def _fail(message: str, code: int = 1) -> int:
    sys.stderr.write(f"monai_ddad: {message}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="monai-ddad" if Path(sys.argv[0]).stem == "monai-ddad" else "python -m monai_ddad",
        description="Copy bundles, prepare and check data for DDAD, score archives, export models, report on runs.",
    )
    commands = parser.add_subparsers(required=True)

    def add(name: str, summary: str, text: str) -> argparse.ArgumentParser:
        layout = argparse.RawDescriptionHelpFormatter
        return commands.add_parser(name, help=summary, description=f"{summary}.\n\n{text}", formatter_class=layout)

    command = add("bundle", "copy a bundle to a folder of your own", BUNDLE)
    command.add_argument("name", choices=bundle_names())
    command.add_argument("folder", help="new folder to make, or an empty one")
    command.set_defaults(run=_bundle)

    command = add("datalist", "write and check a MONAI datalist", DATALIST)
    command.add_argument("source", help="folder, JSON or CSV file")
    command.add_argument("--output", required=True, help="JSON file to write; paths in it are relative to it")
    command.add_argument("--check", action="store_true", help="also decode every image and name those that fail")
    for column in ("image", "split", "label", "group"):
        command.add_argument(f"--{column}_column", default=column, help=f"the CSV's column (default: {column})")
    command.set_defaults(run=_datalist)

    command = add("audit", "write a report on a data set", AUDIT)
    command.add_argument("source", help="folder or JSON file of the data set")
    command.add_argument("--output", required=True, help="folder for the report")
    command.add_argument("--image_size", type=int, default=64, help="side at which images are compared (default: 64)")
    copies = "correlation above which two images are near copies (default: 0.99)"
    command.add_argument("--near_copy", type=float, default=0.99, help=copies)
    command.add_argument("--file_names", action="store_true", help="also write file names, which may identify patients")
    command.add_argument("--strict", action="store_true", help="exit with 1 if test images are copies of training ones")
    command.add_argument("--num_workers", type=_positive, help="threads (default: one a core)")
    command.set_defaults(run=_audit)

    command = add("prepare", "make one of the paper's benchmarks from its originals", PREPARE)
    command.add_argument("benchmark", choices=BENCHMARKS)
    command.add_argument("originals", help="folder of the download")
    command.add_argument("output", help="folder to make images/ and data.json in")
    command.add_argument("--split", help="the authors' data.json of this benchmark")
    photometry = "films as everywhere in this package (dicom, default) or as in the authors' script (authors)"
    command.add_argument("--photometry", choices=("dicom", "authors"), default="dicom", help=photometry)
    command.add_argument("--file_names", action="store_true", help="also write file names to unreadable.csv")
    command.add_argument("--num_workers", type=_positive, help="processes (default: up to one a core)")
    command.set_defaults(run=_prepare)

    command = add("score", "score an archive of images", SCORE)
    command.add_argument("source", nargs="+", help="folder, image, or .txt file with a path a line")
    command.add_argument("--output", required=True, help="Parquet file to write")
    command.add_argument("--bundle", required=True, help="folder of the bundle, such as bundles/ddad_cxr")
    command.add_argument("--models", help="folder of model.pt (default: models in the bundle)")
    command.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPUs if there are any)")
    precision = "bfloat16 is faster where the hardware has it (default: float32)"
    command.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help=precision)
    runtime = "what computes the maps (default: torch); onnx needs the extra of that name"
    command.add_argument("--runtime", choices=("torch", "torchscript", "onnx"), default="torch", help=runtime)
    command.add_argument("--alpha", type=float, help="rate of false alarms on normal images (default: the model's)")
    command.add_argument("--score", help="score that decides (default: the model's)")
    command.add_argument("--file_names", action="store_true", help="also write paths, which may identify patients")
    workers = "processes that read images, 0 for none of their own (default: one a core)"
    command.add_argument("--num_workers", type=_not_negative, help=workers)
    overwrite = "replace a finished output, and drop an unfinished one with other settings"
    command.add_argument("--overwrite", action="store_true", help=overwrite)
    command.set_defaults(run=_score)

    command = add("export", "write a trained model for other programs", EXPORT)
    command.add_argument("models", help="folder of model.pt")
    command.add_argument("output", help="file to write, .onnx or .pt2")
    command.set_defaults(run=_export)

    command = add("report", "write a report on an evaluation, or compare two", REPORT)
    command.add_argument("folder", nargs="?", metavar="RUN", help="output folder of the run")
    command.add_argument("--compare", nargs=2, metavar="RUN", help="output folders of two runs")
    command.add_argument("--output", help="HTML file to write (default: eval/report.html of the run)")
    command.set_defaults(run=_report)

    command = add("label", "print the folder of the MONAI Label app", LABEL)
    command.set_defaults(run=_label)

    command = add("deploy", "print the folder that monai-deploy packages", DEPLOY)
    command.set_defaults(run=_deploy)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError("a whole number from 1 is expected")
    return int(text)


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("a whole number from 0 is expected")
    return int(text)


def _bundle(options: argparse.Namespace) -> int:
    try:
        copy_bundle(options.name, options.folder)
    except FileExistsError as error:
        return _fail(str(error))
    train, inference, shipped = (
        shlex.quote(str(Path(options.folder) / name)) for name in ("train.json", "inference.json", "shipped")
    )
    run, said = "python -m monai.bundle run --config_file", logging.getLogger(__name__)
    said.info(f"To score images by the model in it: {run} {inference} --models_dir {shipped} --dataset_dir FOLDER")
    said.info(f"To train one of your own: {run} {train} --dataset_dir FOLDER")
    return 0


def _datalist(options: argparse.Namespace) -> int:
    from monai_ddad.data.build import build_datalist, check_datalist, find_unreadable, write_datalist

    columns = {name: getattr(options, f"{name}_column") for name in ("image", "split", "label", "group")}
    lists = build_datalist(options.source, columns)
    check_datalist(lists)
    write_datalist(lists, options.output)
    if not options.check:
        return 0
    failed = [
        f"{name} item {position}: {reason}"
        for name, items in lists.items()
        for position, reason in find_unreadable(items).items()
    ]
    return _fail("\n- ".join([f"{len(failed)} images cannot be read:", *failed])) if failed else 0


def _audit(options: argparse.Namespace) -> int:
    from monai_ddad.evaluation.survey import write_report
    from monai_ddad.io.locks import lock_folder

    with lock_folder(options.output, "--output"):
        report = write_report(
            options.source,
            options.output,
            image_size=options.image_size,
            near_copy=options.near_copy,
            file_names=options.file_names,
            num_workers=options.num_workers,
        )
    copies = report["copies_across_splits"]
    return _fail(f"{copies} test images are copies of training images.") if options.strict and copies else 0


def _prepare(options: argparse.Namespace) -> int:
    from monai_ddad.data.prepare import prepare

    if options.split is None and options.benchmark != "cxad":
        _parser().error(
            f"prepare {options.benchmark} needs --split, the data.json that the authors of DDAD publish with their code"
        )
    result = prepare(
        options.benchmark,
        options.originals,
        options.output,
        options.split,
        options.photometry,
        options.file_names,
        options.num_workers,
    )
    logging.getLogger(__name__).info(f"{result['images']} images, {result['kept']} of them from an earlier call.")
    if result["unreadable"]:
        return _fail(f"{result['unreadable']} images are missing or cannot be read: see unreadable.csv.")
    return 0


def _score(options: argparse.Namespace) -> int:
    from monai_ddad.io.checkpoints import CheckpointError
    from monai_ddad.serving.archive import score_archive

    try:
        counts = score_archive(
            options.source,
            options.output,
            options.bundle,
            options.models,
            device=options.device,
            precision=options.precision,
            alpha=options.alpha,
            score=options.score,
            runtime=options.runtime,
            file_names=options.file_names,
            num_workers=options.num_workers,
            overwrite=options.overwrite,
        )
    except CheckpointError as error:
        return _fail(str(error))
    if counts is not None and counts[0] == 0:
        return _fail(f"none of the {counts[1]} images can be read: the table of unreadable ones says why.")
    return 0


def _export(options: argparse.Namespace) -> int:
    from monai_ddad.bundle import network_settings, weights_file
    from monai_ddad.io.checkpoints import CheckpointError, load_weights
    from monai_ddad.networks import build_model
    from monai_ddad.serving.onnx_models import export_onnx
    from monai_ddad.serving.programs import export_program

    export = {".onnx": export_onnx, ".pt2": export_program}.get(Path(options.output).suffix)
    if export is None:
        _parser().error("export writes .onnx or .pt2, by the suffix of the output")
    try:
        model = build_model(network_settings(options.models)).eval()
        load_weights(model, weights_file(Path(options.models)))
        export(model, options.output)
    except (CheckpointError, ImportError, ValueError) as error:
        return _fail(str(error))
    return 0


def _report(options: argparse.Namespace) -> int:
    from monai_ddad.evaluation.report import write_comparison, write_report

    if (options.folder is None) == (options.compare is None):
        _parser().error("report needs the folder of a run, or --compare and two of them")
    if options.compare is not None and options.output is None:
        _parser().error("report --compare needs --output, the HTML file to write")
    if options.compare is None:
        write_report(options.folder, options.output)
    else:
        first, second = options.compare
        write_comparison(first, second, options.output)
    return 0


def _label(options: argparse.Namespace) -> int:
    from monai_ddad.label import APP

    sys.stdout.write(f"{APP}\n")
    return 0


def _deploy(options: argparse.Namespace) -> int:
    sys.stdout.write(f"{Path(__file__).parent / 'deploy' / 'app'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
