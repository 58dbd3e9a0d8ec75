"""Our signatures are botocore's, whatever is signed."""

from datetime import UTC, datetime
from urllib.parse import quote

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from millrace.aws.credentials import Credentials
from millrace.aws.signing import signed_headers

NOW = datetime(2026, 11, 21, 18, 4, 5, tzinfo=UTC)
TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)


def theirs(request: AWSRequest, credentials: Credentials, service: str) -> str:
    """The Authorization header that botocore makes at `NOW`."""
    held = BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    kind = S3SigV4Auth if service == "s3" else SigV4Auth
    auth = kind(held, service, "eu-central-1")
    request.context["timestamp"] = NOW.strftime("%Y%m%dT%H%M%SZ")
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    if credentials.token:
        request.headers["X-Amz-Security-Token"] = credentials.token
    request.headers["X-Amz-Content-SHA256"] = auth.payload(request)
    canonical = auth.canonical_request(request)
    signature = auth.signature(auth.string_to_sign(request, canonical), request)
    signed = auth.signed_headers(auth.headers_to_sign(request))
    return (
        f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, "
        f"SignedHeaders={signed}, Signature={signature}"
    )


@given(secret=TEXT, token=st.just("") | TEXT, body=st.binary(max_size=200))
def test_signature_of_a_table_request_is_botocores(secret: str, token: str, body: bytes) -> None:
    credentials = Credentials("AKIDEXAMPLE", secret, token)
    headers = {
        "host": "dynamodb.eu-central-1.amazonaws.com",
        "content-type": "application/x-amz-json-1.0",
        "x-amz-target": "DynamoDB_20120810.GetItem",
    }
    request = AWSRequest("POST", f"https://{headers['host']}/", headers=headers, data=body)

    ours = signed_headers(
        "POST",
        "/",
        headers,
        body,
        credentials=credentials,
        region="eu-central-1",
        service="dynamodb",
        now=NOW,
    )

    assert ours["authorization"] == theirs(request, credentials, "dynamodb")


@given(key=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_signature_of_an_object_request_is_botocores(key: str) -> None:
    credentials = Credentials("AKIDEXAMPLE", "secret", "token")
    host = "a-bucket.s3.eu-central-1.amazonaws.com"
    path = "/" + quote(key, safe="/-_.~")
    request = AWSRequest("GET", f"https://{host}{path}", headers={"host": host})

    ours = signed_headers(
        "GET",
        path,
        {"host": host},
        b"",
        credentials=credentials,
        region="eu-central-1",
        service="s3",
        now=NOW,
    )

    assert ours["authorization"] == theirs(request, credentials, "s3")
