"""Follows the channels of a release store: what they name is fetched, verified, tried in a child process and then served.

Whatever is wrong with it, the release that serves goes on. A canary's trial ends as its rule says: promoted or sent away.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from serving.bundle import Bundle, BundleError, load_bundle
from serving.check import CheckError, check
from serving.metrics import Metrics
from serving.models import Model, Served, Trial
from serving.trial import Comparison, Rule
from tasks.cloud.storage import Conflict, StorageError
from tasks.releases import Channel, ReleaseError, Releases

Tagged = tuple[Channel, str]
REFUSALS = (ReleaseError, BundleError, CheckError, StorageError)
AGAIN_SECONDS = 60.0  # after which a release that was refused is tried again: the way to it may have been at fault


class Follower:
    """Keeps one model as the channels of its store say."""

    def __init__(self, releases: Releases, metrics: Metrics, cache: Path, public_key: bytes | None, decide: bool) -> None:
        """`cache`: a folder for bundles from afar; `public_key`: of who signs them, in PEM; `decide`: whether to end trials in the
        store too, for all services, or for this one alone."""
        self.releases, self.metrics, self.cache, self.public_key, self.decide = releases, metrics, cache, public_key, decide
        self.tags: dict[str, str] = {}  # by channel, the pointer that was acted on
        self.again: dict[str, float] = {}  # by channel, when one that was refused is tried again
        self.told = asyncio.Event()
        self.asked = 0
        self.done = 0
        self.by = f"service {socket.gethostname()}:{os.getpid()}"
        self.silent = False  # the store did not answer the last time

    def start(self) -> Model:
        """The model with what production names, else with the release before it, else with none until a look finds one.

        ReleaseError or StorageError when the store does not say which model it is of.
        """
        channel, tag = self.releases.production()
        self.model = Model(channel.name, self.metrics)
        self.tags["production"] = tag
        try:
            self._serve(Served(self._load(channel), self.metrics))
            self._date(channel)
        except REFUSALS as error:
            self._refuse("production", channel.version, str(error))
            self.again["production"] = 0.0
            if channel.previous is not None:
                self._stand_in(replace(channel, version=channel.previous))
        return self.model

    def _stand_in(self, channel: Channel) -> None:
        """What production served before serves on, if it can."""
        try:
            self._serve(Served(self._load(channel), self.metrics))
        except REFUSALS as error:
            say(f"{channel.name}: {channel.version}, which production served before, is refused too: {error}")

    async def follow(self, seconds: float) -> None:
        """Looks at the store again and again, after so many seconds or when told to."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.told.wait()
            self.told.clear()
            asked = self.asked
            if asked > self.done:  # by someone who may have mended what was refused
                self.again = dict.fromkeys(self.again, 0.0)
            try:
                await self.look()
                self.silent = False
            except (StorageError, ReleaseError, OSError) as error:
                self.metrics.silent.labels(self.model.name).inc()
                if not self.silent:
                    say(f"{self.model.name}: {error}; the release that is served goes on")
                self.silent = True
            self.done = asked
            await self.settle()

    async def refresh(self, seconds: float = 60.0) -> None:
        """The store was looked at after this call; TimeoutError when that takes longer."""
        self.asked += 1
        mine = self.asked
        self.told.set()
        async with asyncio.timeout(seconds):
            while self.done < mine:
                await asyncio.sleep(0.01)

    async def look(self) -> None:
        """The model is as the channels say, as far as they name what can be served."""
        await self._channel("production", self._production)
        if self.model.ready:  # what a trial is held against
            await self._channel("canary", self._trial)
            await self._channel("shadow", self._trial)

    async def settle(self) -> None:
        """A canary that its rule promotes or ends is in production or gone."""
        canary = self.model.canary
        if canary is None or not canary.on or (verdict := canary.comparison.verdict()) is None:
            return
        fate, why = verdict
        canary.on = False
        say(f"{self.model.name}: the canary {canary.served.version} is to {fate}: {why}")
        if not self.decide:
            return
        try:
            await asyncio.to_thread(self._decide, fate, why)
        except Conflict:
            say(f"{self.model.name}: another was first; its word holds")
        except (StorageError, ReleaseError) as error:
            say(f"{self.model.name}: the channel could not be moved: {error}")
        self.told.set()

    def _decide(self, fate: str, why: str) -> None:
        """The store says so too; Conflict when a channel moved since this service looked."""
        canary, production = self.releases.channel("canary"), self.releases.channel("production")
        if canary is None or canary[1] != self.tags.get("canary") or production is None:
            return
        channel, tag = canary
        if fate == "promote":
            if production[1] != self.tags.get("production"):
                return
            self.releases.promote(channel.version, production[1], now=production[0], by=self.by, why=why)
        self.releases.close("canary", tag, by=self.by, why=why)

    async def _channel(self, name: str, act: Any) -> None:
        """What the channel names now is acted on, once for each time that it moves."""
        found: Tagged | None = await asyncio.to_thread(self.releases.channel, name)
        tag = found[1] if found else ""
        now = asyncio.get_running_loop().time()
        if tag == self.tags.get(name, "") and not (name in self.again and now >= self.again[name]):
            return
        self.again.pop(name, None)
        work: Coroutine[Any, Any, None] = act(name, found[0] if found else None)
        try:
            await work
        except REFUSALS as error:
            assert found is not None
            self._refuse(name, found[0].version, str(error))
            self.again[name] = now + (AGAIN_SECONDS if self.model.ready else 0.0)  # while nobody is answered, at each look
        else:
            self._accept(name)
        self.tags[name] = tag

    async def _production(self, name: str, channel: Channel | None) -> None:
        if channel is None:  # a channel that is gone is no reason to stop
            return
        self._serve(await self._take(channel))
        self._date(channel)

    async def _trial(self, name: str, channel: Channel | None) -> None:
        """The trial of the channel begins, goes on with another share, or is over."""
        before = self.model.trials.get(name)
        trial = None
        if channel is not None and channel.version != self.model.current.version:
            served = await self._take(channel)
            header = None
            if channel.header:
                key, _, value = channel.header.partition(":")
                header = (key.strip().lower(), value.strip())
            trial = Trial(served, Comparison(_rule(channel)), channel.share, header)
        if before:
            self._tell(before.served, name, 0)
        if trial:
            self._tell(trial.served, name, 1)
        setattr(self.model, name, trial)

    async def _take(self, channel: Channel) -> Served:
        """The release, from memory where it is there, else fetched, verified, tried in a child and loaded."""
        known = (self.model.production, self.model.previous, *(trial.served for trial in self.model.trials.values()))
        for served in known:
            if served and served.version == channel.version:
                return served
        folder = await asyncio.to_thread(self._fetch, channel)
        await check(folder)
        return Served(await asyncio.to_thread(self._load, channel), self.metrics)

    def _fetch(self, channel: Channel) -> Path:
        return self.releases.fetch(channel.version, self.cache, self.public_key)

    def _load(self, channel: Channel) -> Bundle:
        bundle = load_bundle(self._fetch(channel))
        if (bundle.name, bundle.version) != (channel.name, channel.version):
            raise BundleError(f"{channel.version} holds {bundle.name} {bundle.version}; the channel names {channel.name}")
        return bundle

    def _serve(self, served: Served) -> None:
        """It answers from the next request on; what answered until now is kept to go back to."""
        model = self.model
        if served is model.production:
            return
        if model.production:
            self._tell(model.production, "production", 0)
            model.previous = model.production
            for trial in model.trials.values():  # which are now held against another
                trial.comparison = Comparison(trial.comparison.rule)
        model.production = served
        self._tell(served, "production", 1)

    def _tell(self, served: Served, channel: str, value: int) -> None:
        bundle = served.bundle
        self.metrics.release.labels(bundle.name, bundle.version, bundle.chosen, channel).set(value)

    def _date(self, channel: Channel) -> None:
        """Prometheus is told since when production serves it; of channels moved by older versions nobody knows."""
        with suppress(ValueError):
            self.metrics.since.labels(self.model.name, "production").set(datetime.fromisoformat(channel.since).timestamp())

    def _refuse(self, channel: str, version: str, why: str) -> None:
        name = self.model.name
        if self.model.refused.get(channel) != (version, why):
            say(f"{name}: {channel} names {version}, which is refused: {why}")
        self.model.refused[channel] = (version, why)
        self.metrics.refused.labels(name, channel).inc()
        self.metrics.behind.labels(name, channel).set(1)

    def _accept(self, channel: str) -> None:
        if self.model.refused.pop(channel, None):
            self.metrics.behind.labels(self.model.name, channel).set(0)


def _rule(channel: Channel) -> Rule:
    """ReleaseError when the channel's rule is none."""
    try:
        return Rule(**{name: float(value) for name, value in (channel.rule or {}).items()})
    except (TypeError, ValueError) as error:
        raise ReleaseError(f"its rule {channel.rule} is none: {error}; start the canary again") from error


def say(line: str) -> None:
    """A line in the service's log."""
    print(line, file=sys.stderr, flush=True)
