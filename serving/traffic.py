"""How much a process has to do: what it took in, what it answered, and what waits for its clients."""

from serving.metrics import Metrics
from serving.request import RequestError

STARTED = "tidemill.started"  # in a scope's extensions: how many requests the process had taken in with this one


class Traffic:
    """The requests under way, of which there may be `most` before others are sent away.

    Those whose clients still send, or do not take their answers, are none of these: they wait for nobody here.
    """

    def __init__(self, metrics: Metrics, most: int) -> None:
        self.metrics, self.most = metrics, most
        self.begun = self.ended = self.idle = 0

    def begin(self) -> int:
        """One more was taken in; returns how many there were until now."""
        self.begun += 1
        return self.begun

    def admit(self, started: int) -> None:
        """RequestError 503 when the request, the `started`th, came behind too many others.

        A burst of requests is handed over at once, and each runs to its end before the next begins: they are counted where they
        come in, since later no two would ever meet.
        """
        if started - self.ended - self.idle > self.most:
            raise RequestError(503, f"{self.most} requests are under way; come again", retry_after=1)

    def tell(self) -> None:
        """Prometheus will hear how many are under way."""
        self.metrics.waiting.set(self.begun - self.ended - self.idle)

    def end(self, route: str, status: int, seconds: float) -> None:
        """One of them was answered."""
        self.ended += 1
        self.metrics.answered(route, status, seconds)
