import asyncio
import http.client
import os
import subprocess
import time
import urllib.request

import httpx
import requests

# ruleid: shell
subprocess.run(f"sam deploy {stack}", shell=True, check=True)
# ruleid: shell
subprocess.Popen(command, shell=True)
# ruleid: shell
os.system("sam deploy")
# ruleid: shell
subprocess.getoutput("git log")
# ok: shell
subprocess.run(["sam", "deploy"], check=True)

# ruleid: request-without-timeout
requests.get(url)
# ruleid: request-without-timeout
httpx.Client()
# ruleid: request-without-timeout
httpx.get(url)
# ruleid: request-without-timeout
urllib.request.urlopen(url)
# ruleid: request-without-timeout
http.client.HTTPConnection("127.0.0.1", 4566)
# ok: request-without-timeout
requests.get(url, timeout=5)
# ok: request-without-timeout
httpx.Client(timeout=5)
# ok: request-without-timeout
urllib.request.urlopen(url, timeout=5)
# ok: request-without-timeout
httpx.URL(url)

# ruleid: link-without-end
client.generate_presigned_url("get_object", Params=place)
# ok: link-without-end
client.generate_presigned_url("get_object", Params=place, ExpiresIn=900)

# ruleid: sleeping-function
time.sleep(5)


async def wait():
    # ruleid: sleeping-function
    await asyncio.sleep(5)
    # ok: sleeping-function
    await event.wait()
