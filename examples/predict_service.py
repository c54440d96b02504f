"""A predictor behind HTTP: post a slice, get its mask as PNG, or its measures as JSON.

    MODEL=runs/a uvicorn predict_service:app --app-dir examples
    curl -F file=@slice.tif http://127.0.0.1:8000/mask -o mask.png
    curl -F file=@slice.tif http://127.0.0.1:8000/measures

Needs: pip install fastapi uvicorn python-multipart. Without MODEL it serves the threshold rule. It
listens to this machine alone, keeps nothing, and logs no file name. Not a medical device.
"""

import math
import os
from pathlib import Path

import numpy as np
from fastapi import FastAPI, Request, Response, UploadFile
from fastapi.responses import JSONResponse

import lungunet


def make_app(model: str) -> FastAPI:
    """Load the model once, when the service starts; a bad path fails there and not at a request."""
    predictor = lungunet.Predictor.load(model)
    app = FastAPI(title="Lung masks", description=f"Masks by {model}. Not a medical device.")

    # Whatever is wrong with a request is said in lungunet's words.
    @app.exception_handler(lungunet.DataError)
    def refuse(request: Request, error: lungunet.DataError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=422)

    # Not `async def`: FastAPI runs these in threads, so that one slice does not block the others.
    @app.post("/mask", response_class=Response)
    def mask(file: UploadFile) -> Response:
        """Return the lung mask: PNG, 0 and 255, at the size of the slice."""
        mask255 = predictor.predict(receive(file))
        return Response(lungunet.encode_mask(mask255), media_type="image/png")

    @app.post("/measures")
    def measures(file: UploadFile) -> dict[str, float | int | None]:
        """Measure the lung: its area, and its mean value; null where there is no lung."""
        image = receive(file)
        measured = lungunet.measure_slice(image, predictor.predict(image))
        return {
            "height_px": image.shape[0],
            "width_px": image.shape[1],
            "area_px": measured.area_px,
            # JSON knows no NaN: what is not defined is null.
            "mean_hu": None if math.isnan(measured.mean_hu) else measured.mean_hu,
        }

    return app


def receive(file: UploadFile) -> np.ndarray:
    """Read an upload the way lungunet reads files, so that both refuse the same ones."""
    name = Path(file.filename or "slice").name  # a client may send any path
    return lungunet.decode_image(file.file.read(), name)


app = make_app(os.environ.get("MODEL", "threshold"))
