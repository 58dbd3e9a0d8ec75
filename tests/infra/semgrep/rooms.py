import os

# ruleid: boto3-outside-its-room
import boto3

# ruleid: boto3-outside-its-room
import botocore

# ruleid: boto3-outside-its-room
from botocore.config import Config

# ok: boto3-outside-its-room
from millrace.aws.clients import client

# ruleid: botocore-errors-outside-their-room, boto3-outside-its-room
from botocore.exceptions import ClientError

# ok: botocore-errors-outside-their-room
from millrace.errors import MillraceError

# ruleid: learning-outside-its-room
import sklearn

# ruleid: learning-outside-its-room
from sklearn.linear_model import Ridge

# ruleid: learning-outside-its-room
from skl2onnx import convert_sklearn

# ok: learning-outside-its-room
from millrace.learning.service import Training

# ruleid: onnxruntime-outside-its-rooms
import onnxruntime

# ok: onnxruntime-outside-its-rooms
from millrace.onnx_session import load_session

# ruleid: web-framework-outside-its-room
from fastapi import FastAPI

# ruleid: web-framework-outside-its-room
from mangum import Mangum

# ok: web-framework-outside-its-room
from millrace.http.api import build_api

# ruleid: function-imports-function
from functions.trigger.handler import wiring

# ok: function-imports-function
from millrace.registry.door import Door

# ruleid: environment-read-in-the-domain
table = os.environ["MILLRACE_TABLE_NAME"]
# ruleid: environment-read-in-the-domain
bucket = os.getenv("MILLRACE_DATA_BUCKET")
# ok: environment-read-in-the-domain
table = settings.table_name
