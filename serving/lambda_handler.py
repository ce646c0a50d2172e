"""What AWS Lambda calls: `handler`. Loading this starts the service, as Lambda does once for many invocations.

The flags of `python -m serving` stand in TIDEMILL_FLAGS. The function's address is reached from everywhere, so it does not start
without --keys or --jwks, unless --no-auth says that a gateway before it asks for who may.
"""

import os
import shlex
import sys

from serving.__main__ import parse
from serving.gateway import Function
from serving.metrics import Metrics
from serving.server import StartError, open_service

try:
    service = open_service(parse(["--host", "0.0.0.0", *shlex.split(os.environ.get("TIDEMILL_FLAGS", ""))]), Metrics())
except StartError as error:
    sys.exit(f"error: {error}")
handler = Function(service.app, service.log)
