"""The seed course's online service in BentoML's present words: look-up, data frame, model, argmax and log at each request.

`python bento_service.py` takes the champion over into BentoML's store, `bentoml serve bento_service:DriverCompletion`
serves it. Both run in an environment of their own (bento-requirements.txt) and read the variables BENCH_*.
"""

import json
import logging
import os

import bentoml
import pandas as pd

MODEL = "driver-completion"


def take_over() -> None:
    "The registered model, as MLflow loads it, in BentoML's store."
    import mlflow

    mlflow.set_tracking_uri(os.environ["BENCH_MLFLOW"])
    model = mlflow.sklearn.load_model(f"models:/{MODEL}@champion")
    names = [column.name for column in mlflow.models.get_model_info(f"models:/{MODEL}@champion").signature.inputs]
    bentoml.sklearn.save_model(MODEL, model, custom_objects={"features": names})


@bentoml.service(workers=1)
class DriverCompletion:
    def __init__(self) -> None:
        from feast import FeatureStore

        saved = bentoml.sklearn.get(f"{MODEL}:latest")
        self.model, self.features = bentoml.sklearn.load_model(saved), saved.custom_objects["features"]
        self.store = FeatureStore(repo_path=os.environ["BENCH_FEATURE_REPO"])
        self.log = logging.getLogger("predictions")
        self.log.setLevel(logging.INFO)
        self.log.addHandler(logging.FileHandler(os.environ["BENCH_LOG"]))

    @bentoml.api
    def inference(self, request_id: str, driver_ids: list[int]) -> dict:
        rows = self.store.get_online_features(
            entity_rows=[{"driver_id": driver} for driver in driver_ids],
            features=[f"statistics:{name}" for name in self.features],
        )
        frame = pd.DataFrame.from_dict(rows.to_dict())
        frame["prediction"] = self.model.predict_proba(frame[self.features])[:, 1]
        best = frame.iloc[frame["prediction"].argmax()]
        self.log.info(json.dumps({"request_id": request_id, **best.to_dict()}))
        return {"prediction": int(best["driver_id"]), "error": None}


if __name__ == "__main__":
    take_over()
