# ruleid: unpickling
import pickle

# ruleid: unpickling
import joblib
import numpy as np
import pandas as pd

# ruleid: unpickling
from pickle import loads

# ok: unpickling
import json

# ruleid: unpickling
pickle.loads(body)
# ruleid: unpickling
joblib.load("model.joblib")
# ruleid: unpickling
np.load(file, allow_pickle=True)
# ruleid: unpickling
np.savez(file, allow_pickle=True, row=row)
# ruleid: unpickling
pd.read_pickle("table.pkl")
# ok: unpickling
np.load(file, allow_pickle=False)
# ok: unpickling
np.load(file)
# ok: unpickling
json.loads(body)


def lazily():
    # ruleid: unpickling
    import torch

    # ruleid: unpickling
    return torch.load("model.pt")


import yaml

# ruleid: yaml-that-builds-objects
yaml.load(text, Loader=yaml.Loader)
# ruleid: yaml-that-builds-objects
yaml.load(text, Loader=yaml.SafeLoader)
# ruleid: yaml-that-builds-objects
yaml.full_load(text)
# ok: yaml-that-builds-objects
yaml.safe_load(text)

import onnxruntime

# ruleid: model-loaded-unverified
onnxruntime.InferenceSession(body)
# ok: model-loaded-unverified
load_session(body, sha256, "model churn@3")

# ruleid: text-run-as-code
eval(expression)
# ruleid: text-run-as-code
exec(source)
# ok: text-run-as-code
parse(expression)
