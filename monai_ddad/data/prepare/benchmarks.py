"""The paper's benchmarks: what their downloads look like and how many images they have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePath

from monai_ddad.data.datalist import GROUPS, read_split
from monai_ddad.io.errors import DataError
from monai_ddad.io.files import IMAGE_SUFFIXES, LeftOut, find_files, log_left_out

__all__ = ["BENCHMARKS", "Benchmark", "Job", "plan_jobs"]


@dataclass(frozen=True)
class Benchmark:
    """What is known of a benchmark.

    Attributes:
        films: its originals are films that become PNG files; otherwise pictures, used as they are.
        layout: the download, in words.
        counts: images of each group that the paper's benchmark has, in the order of
            :data:`monai_ddad.data.datalist.GROUPS`; empty where that is not public.
        ignored: folders of the download whose files are no images of patients.
    """

    films: bool
    layout: str
    counts: tuple[int, ...] = ()
    ignored: tuple[str, ...] = ()


CXAD_FOLDERS = (
    "normal",
    "unlabeled/normal",
    "unlabeled/abnormal",
    "test/normal",
    "test/abnormal",
)  # one for each group

BENCHMARKS = {
    "rsna": Benchmark(
        films=True,
        layout="the RSNA Pneumonia Detection Challenge of Kaggle: stage_2_train_images/<patientId>.dcm",
        counts=(3851, 4000, 5012, 1000, 1000),
    ),
    "vindr_cxr": Benchmark(
        films=True,
        layout="VinBigData Chest X-ray Abnormalities Detection of Kaggle, or VinDr-CXR of PhysioNet: "
        "train/<image_id>.dicom",
        counts=(4000, 5606, 3394, 1000, 1000),
    ),
    "cxad": Benchmark(
        films=True,
        layout="films (DICOM or pictures) of your own in the folders " + ", ".join(f"{f}/" for f in CXAD_FOLDERS),
    ),
    "brain_tumor": Benchmark(
        films=False,
        layout="the Brain Tumor MRI Dataset of Kaggle: Training/ and Testing/, each with glioma/, meningioma/, "
        "notumor/ and pituitary/",
        counts=(1000, 400, 600, 600, 600),
    ),
    "lag": Benchmark(
        films=False,
        layout="the LAG database: suspicious_glaucoma/image/ and non_glaucoma/image/",
        counts=(1500, 832, 900, 811, 811),
        ignored=("attention_map",),
    ),
}


@dataclass(frozen=True)
class Job:
    """One image of a benchmark.

    Attributes:
        group: one of :data:`monai_ddad.data.datalist.GROUPS`.
        position: of the image in its group, from 0.
        name: of the file to make.
        originals: files that it could be made from; one, unless there is something wrong.
    """

    group: str
    position: int
    name: str
    originals: tuple[Path, ...]


def plan_jobs(
    benchmark: str, originals: str | os.PathLike[str], split: str | os.PathLike[str] | None = None
) -> list[Job]:
    """Find the original of each image of a benchmark.

    A film belongs to the name with the same part before the first dot, a picture to its own name. CXAD, which is
    private, may come without a split: then its folders are the groups.

    Args:
        benchmark: a name of :data:`BENCHMARKS`.
        originals: the folder of the download.
        split: the authors' ``data.json`` of that benchmark.

    Raises:
        DataError: an unknown benchmark; the split is missing, damaged, names a file twice or one outside its folder;
            or none of its images is among the originals.

    Source: method.md section 1 (CXR pre-processing, counts).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "normal").mkdir()
        ...     Path(folder, "normal", "a.dcm").touch()
        ...     [(job.group, job.name) for job in plan_jobs("cxad", folder)]
        [('train normal', 'normal_a.png')]
    """
    if benchmark not in BENCHMARKS:
        raise DataError(f"the benchmark must be one of {', '.join(BENCHMARKS)}.")
    known = BENCHMARKS[benchmark]
    root = Path(os.path.expanduser(originals))
    if not root.is_dir():
        raise DataError(f"the folder of the originals does not exist. Expected {known.layout}.")
    if split is None and benchmark != "cxad":
        raise DataError(
            f"{benchmark} needs the lists of its training and test images: give the data.json that the authors of "
            "DDAD publish with their code for this benchmark (--split data.json)."
        )
    left_out = LeftOut()
    files = [path for path in find_files(root, left_out) if not set(known.ignored) & set(path.relative_to(root).parts)]
    log_left_out(left_out)
    jobs = _from_folders(root, files) if split is None else _from_split(known, files, split)
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise DataError(f"{len(names) - len(set(names))} names of images occur more than once.")
    if not any(job.originals for job in jobs):
        raise DataError(f"none of the {len(jobs)} images is among the originals. Expected {known.layout}.")
    return jobs


def _from_split(known: Benchmark, files: list[Path], split: str | os.PathLike[str]) -> list[Job]:
    lists = read_split(split)
    if any(
        name in ("", ".", "..") or PurePath(name).name != name or "\\" in name
        for names in lists.values()
        for name in names
    ):
        raise DataError("the split holds names that are no plain file names.")

    def key(name: str) -> str:
        return name.split(".")[0] if known.films else name

    found: dict[str, list[Path]] = {}
    for path in files:
        found.setdefault(key(path.name), []).append(path)
    return [
        Job(group, position, name, tuple(found.get(key(name), ())))
        for group, names in lists.items()
        for position, name in enumerate(names)
    ]


def _from_folders(root: Path, files: list[Path]) -> list[Job]:
    jobs = []
    for group, folder in zip(GROUPS, CXAD_FOLDERS):
        members = [path for path in files if path.is_relative_to(root / folder)]
        for position, path in enumerate(members):
            name = "_".join(path.relative_to(root).parts)
            suffix = next((end for end in IMAGE_SUFFIXES if name.lower().endswith(end)), "")
            jobs.append(Job(group, position, name[: len(name) - len(suffix)] + ".png", (path,)))
    return jobs
