"""Ask this model, with onnxruntime and NumPy alone.

    python python/predict.py rows.json

Takes ``{"rows": [{feature: value}]}``, or the bare list; prints the predictions as JSON. A row has
every feature of ``signature.json``, null where there is no value. The answers are those of the
Millrace service for the same rows.
"""

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

WHITESPACE = " \t\r\n\v\f\u00a0\u2007\u202f\u3000\ufeff"
MAX_INTEGER = 2**53
MAX_FLOAT = float(np.finfo(np.float32).max)


class Model:
    """A model version, checked against its manifest and loaded.

    Args:
        folder: Where the bundle was unpacked.
    """

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.name: str = manifest["model"]
        self.version: int = manifest["version"]
        digests = {f["path"]: f["sha256"] for f in manifest["files"]}

        def verified(name: str) -> bytes:
            body = (folder / name).read_bytes()
            if hashlib.sha256(body).hexdigest() != digests[name]:
                raise ValueError(f"{name} is not the file that was exported")
            return body

        self.signature: dict[str, Any] = json.loads(verified("signature.json"))
        features = self.signature["features"]
        self._numeric = [f for f in features if f["type"] != "string"]
        self._texts = [f for f in features if f["type"] == "string"]
        self._null = {"", *(t.strip(WHITESPACE) for t in self.signature["null_values"])}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            verified("model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One prediction per row: label and probabilities, or the value of a regression.

        Raises:
            ValueError: A row does not fit the signature; the message names row and feature.
        """
        names = {f["name"] for f in self.signature["features"]}
        for index, row in enumerate(rows):
            for name in sorted(names.symmetric_difference(row)):
                raise ValueError(
                    f"row {index}: {name} {'is missing' if name in names else 'is no feature'}"
                )
        inputs: dict[str, np.ndarray] = {}
        if self._numeric:
            inputs["numeric"] = np.array(
                [
                    [self._number(f, row[f["name"]], index) for f in self._numeric]
                    for index, row in enumerate(rows)
                ],
                dtype=np.float32,
            )
        if self._texts:
            inputs["categorical"] = np.array(
                [
                    [self._text(f, row[f["name"]], index) for f in self._texts]
                    for index, row in enumerate(rows)
                ],
                dtype=object,
            )
        (output,) = self._session.run(None, inputs)
        classes = self.signature["classes"]
        if not classes:
            return [{"value": value} for value in _decimals(output.reshape(-1))]
        return [
            {
                "label": self._label(classes[best]),
                "probabilities": dict(zip(classes, _decimals(row), strict=True)),
            }
            for best, row in zip(output.argmax(axis=1).tolist(), output, strict=True)
        ]

    def _number(self, feature: dict[str, Any], value: Any, row: int) -> float:
        kind = feature["type"]
        if value is None and feature["nullable"]:
            return math.nan
        fits = isinstance(value, bool) if kind == "boolean" else type(value) in (int, float)
        if fits and kind == "integer":
            fits = abs(value) <= MAX_INTEGER and value == int(value)
        if not fits or not abs(value) <= (MAX_INTEGER if type(value) is int else MAX_FLOAT):
            raise ValueError(f"row {row}: {feature['name']}: expected {kind} of 32-bit precision")
        return float(value)

    def _text(self, feature: dict[str, Any], value: Any, row: int) -> str:
        if isinstance(value, str) or (value is None and feature["nullable"]):
            text = (value or "").strip(WHITESPACE)
            text = "" if text in self._null else text
            if (text or feature["nullable"]) and "\0" not in text and self._known(feature, text):
                return text
        raise ValueError(f"row {row}: {feature['name']}: expected string")

    def _known(self, feature: dict[str, Any], text: str) -> bool:
        """Whether a text may be asked about: by default, texts never seen in training may, too."""
        known = feature.get("categories")
        refuses = self.signature.get("unknown_categories") == "refuse"
        return not refuses or known is None or text == "" or text in known

    def _label(self, text: str) -> str | int | bool:
        kind = self.signature["target_type"]
        if kind == "integer":
            return int(text)
        return text.lower() in ("true", "1") if kind == "boolean" else text


def _decimals(values: np.ndarray) -> list[float]:
    """Numbers of 32 bits with the digits that tell them apart, as the service writes them."""
    return [float(str(value)) for value in values]


def main() -> None:
    """Reads the rows of a file, or of stdin, and prints the predictions."""
    source = (
        Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else sys.stdin.read()
    )
    document = json.loads(source)
    rows = document["rows"] if isinstance(document, dict) else document
    model = Model(Path(__file__).resolve().parent.parent)
    answer = {"model": model.name, "version": model.version, "predictions": model.predict(rows)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
