"""MONAI Label app of DDAD (dual-distribution discrepancy for anomaly detection)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from monai_ddad.processes import end_with_server

end_with_server()  # in a training, or another task, of the server: before the imports, which take long

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.utils.async_tasks.utils import tasks

from monai_ddad.bundle import refuse_expressions
from monai_ddad.io.writing import Staging
from monai_ddad.label.batch import AnomalyBatchInfer
from monai_ddad.label.datastores import FolderStore
from monai_ddad.label.dicomweb import DicomWebStore
from monai_ddad.label.guards import guard_server, verify_signatures
from monai_ddad.label.infer import LABEL, AnomalyInfer
from monai_ddad.label.origins import read_hosts, read_origins
from monai_ddad.label.private import keep_private, keep_temporary_files_in
from monai_ddad.label.schemas import TrainParams
from monai_ddad.label.served import ServedModel
from monai_ddad.label.strategies import Arbitrary, Ranking, most_suspicious, most_uncertain
from monai_ddad.label.train import AnomalyTrain
from monai_ddad.label.versions import ModelVersions

CONF = {"bundle", "models", "versions", "alpha", "hosts", "origins", "server_mode"}  # the last is MONAI Label's own


def read_alpha(text: str) -> float:
    """Read the rate of false alarms.

    Raises:
        ValueError: it is none.
    """
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not 0 < alpha < 1:
        raise ValueError(f"--conf alpha must be a number between 0 and 1, got {text!r}.")
    return alpha


class DDADApp(MONAILabelApp):
    """Serve one bundle: score, triage, mark normals, train.

    ``--conf`` takes ``bundle`` (folder of the bundle), ``models`` (folder of ``model.pt``, the bundle's own where it
    is left out), ``versions`` (folder of the versions that are trained here, in ``models`` where left out), ``alpha``,
    ``hosts`` (names of the server beside those of the loopback) and ``origins`` (of pages that may call it). None of
    them is ever evaluated.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        if unknown := sorted(set(conf) - CONF):
            raise ValueError(f"--conf takes {', '.join(sorted(CONF))}, got {', '.join(unknown)}.")
        for name, value in conf.items():
            refuse_expressions(value, f"--conf {name}")
        bundle = Path(conf.get("bundle", "")).resolve()
        if not (bundle / "configs" / "inference.json").is_file():
            raise ValueError("--conf bundle must be the folder of a bundle, such as bundles/ddad_cxr.")
        models = Path(conf["models"]).resolve() if "models" in conf else bundle / "models"
        versions = Path(conf["versions"]).resolve() if "versions" in conf else models / "versions"
        self.hosts = read_hosts(conf.get("hosts", ""))
        self.origins = read_origins(conf.get("origins", ""))
        keep_private(Path(app_dir, "logs"))
        self._staging = Staging(Path(app_dir, "results"))  # removed with the process, or by the next one
        self.results = self._staging.path  # each until it has been sent
        keep_temporary_files_in(self.results)
        verify_signatures()
        self.model = bundle.name
        self.versions = ModelVersions(bundle, models, versions)
        self.served = ServedModel(self.versions, read_alpha(conf["alpha"]) if "alpha" in conf else None)
        super().__init__(
            app_dir,
            studies,
            conf,
            name="DDAD",
            description="Anomaly triage by dual-distribution discrepancy; for research, not a diagnosis",
            labels=[LABEL],
        )

    def on_init_complete(self) -> None:
        """Guard the server that has loaded the app."""
        from monailabel.app import app  # which loads the app

        guard_server(app, self.hosts, self.origins)
        super().on_init_complete()

    def init_datastore(self) -> Datastore:
        """Open a folder, or a DICOMweb server where ``studies`` is an address."""
        if self.studies.startswith(("http://", "https://")):
            return self.init_remote_datastore()
        return FolderStore(self.studies, auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD)

    def _init_dicomweb_datastore(self) -> Datastore:
        client = DICOMwebClientX(
            url=self.studies,
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        chosen = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER" in settings.model_fields_set
        return DicomWebStore(
            client,
            settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER if chosen else {},
            settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or None,
        )

    def init_infers(self) -> dict[str, AnomalyInfer]:
        """Offer the map, and for viewers that show segmentations alone the region."""
        return {
            self.model: AnomalyInfer(self.served, self.results),
            f"{self.model}_region": AnomalyInfer(self.served, self.results, "region"),
        }

    def init_trainers(self) -> dict[str, AnomalyTrain]:
        """Offer the training, under a name of its own."""
        return {f"{self.model}_training": AnomalyTrain(self.versions)}

    def init_strategies(self) -> dict[str, Strategy]:
        """Offer two orders of the unlabelled images, and none, which is all that OHIF asks for."""
        return {
            "anomaly": Ranking(self.served, most_suspicious, "the smallest p-value first"),
            "uncertain": Ranking(self.served, most_uncertain, "the p-value nearest to the threshold first"),
            "random": Arbitrary(),
        }

    def init_batch_infer(self) -> AnomalyBatchInfer:
        """Offer batch inference; its table is kept with the versions of the model."""
        return AnomalyBatchInfer(self.served, self.versions.versions_dir / f"batch_inference_{self.versions.name}.csv")

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Score an image of the datastore, ``request["image"]``, or the file that a client has sent, ``"file"``.

        Raises:
            HTTPException: 404, there is no such model or image; see :class:`AnomalyInfer` for the rest.
        """
        store = datastore or self.datastore()
        task = self._infers.get(request["model"])
        if task is None:
            raise HTTPException(status_code=404, detail=f"there is no such model: {', '.join(self._infers)}.")
        sent = request.get("file")
        file, params = task(request | {"image": sent or store.get_image_uri(request["image"])})
        if request.get("save_label") and not sent:
            tag = request.get("label_tag") or DefaultLabelTag.ORIGINAL.value
            try:
                store.save_label(request["image"], file, tag, {"model": request["model"], "params": params})
            except Exception:
                Path(file).unlink()
                raise
        return {"tag": DefaultLabelTag.ORIGINAL.value, "file": file, "params": params}

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Hand out the next image of a strategy."""
        if request.get("strategy") not in self._strategies:
            raise HTTPException(status_code=404, detail=f"there is no such strategy: {', '.join(self._strategies)}.")
        return super().next_sample(request)

    def check_training(self, model: str, params: TrainParams) -> None:
        """Check that a training can start, before its process does.

        Raises:
            HTTPException: 429, a training runs; see :meth:`AnomalyTrain.check` for the rest.
        """
        if any(other["status"] in ("SUBMITTED", "RUNNING") for other in tasks("train")):
            raise HTTPException(status_code=429, detail="a training is running: wait for its end, or stop it.")
        self._trainers[model].check(self.datastore(), params)
