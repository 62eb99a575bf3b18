"""What `edgeward serve` starts: from settings to models in a pool, an experiment, a shadow, and the server before them.

    with running(Settings(models=(Path("digits.onnx"),))) as service:
        print(service.server.url)

May not live here: the command line (`edgeward.serving_options`), and what is said to people.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

import click

from edgeward import placement
from runtime.errors import RuntimeFailure
from runtime.hosting.admission import WAITING, Limits
from runtime.hosting.experiment import Experiment, Split
from runtime.hosting.host import default_limits
from runtime.hosting.pool import InProcess, Loader, ModelPool
from runtime.hosting.repository import Repository
from runtime.hosting.room import ModelIdentity
from runtime.local_server.answering import INLINE_S, TIMEOUT_S
from runtime.local_server.server import LocalServer
from runtime.model import Model
from runtime.shadowing.allowance import USUAL, Allowance
from runtime.sources import UNRELEASED, Source, find
from runtime.tuning.advice import Advice, failed

if TYPE_CHECKING:
    from runtime.shadowing.shadow import Shadow

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What was asked for, named and meant as the options of `edgeward serve`."""

    models: tuple[Path, ...]
    port: int = 8000
    address: str = "127.0.0.1"
    grpc_port: int | None = None
    grpc_address: str | None = None
    token_file: TextIO | None = None
    manage: bool = False
    variant: str | None = None
    threads: int | None = None
    batch: int | None = None
    isolate: bool = False
    provider: str | None = None
    delegate: Path | None = None
    tuned: bool = True
    cache: Path | None = None
    memory_budget: int | None = None
    pin: tuple[str, ...] = ()
    max_waiting: int = WAITING
    timeout: float = TIMEOUT_S
    against: Path | None = None
    against_share: float = 0.5
    salt: str = ""
    shadow: Path | None = None
    shadow_share: float = USUAL.share
    shadow_cpu: float = USUAL.cpu_share


@dataclass(frozen=True, slots=True)
class Service:
    """What runs: the server, the models behind it, and how each of them is run."""

    server: LocalServer
    models: ModelPool | Experiment
    ways: Mapping[ModelIdentity, Advice]


@contextlib.contextmanager
def running(settings: Settings, *, hung: Callable[[str], object] = log.critical) -> Iterator[Service]:
    """Everything that was asked for, until the block ends; `hung` as `LocalServer` has it.

    Raises `click.BadParameter`, or a `RuntimeFailure`.
    """
    _check_company(settings)
    offered = _offered(settings)
    other = _other(offered, settings)
    loader = _AsAdvised(_loader(settings), [*offered, *other])
    name = offered[0].source.identity.model
    with contextlib.ExitStack() as held:
        pool = held.enter_context(_pool(offered, loader, settings))
        models: ModelPool | Experiment = pool
        for each in other:
            models = _experiment(pool, offered[0], held.enter_context(_pool([each], loader, settings)), each, settings)
        server = _server(models, Repository(pool, [each.source for each in offered]), settings, hung)
        shadow = _shadow(pool, name, settings)
        server.start()
        held.callback(server.stop)
        if shadow is not None:
            shadow.start()
            held.callback(shadow.stop)
        yield Service(server, models, loader.ways)


class _AsAdvised:
    """A pool's loader: each model in the way that is known here, or as it was published where that way does not work.

    See `runtime.hosting.pool.Loader`.
    """

    def __init__(self, loader: Loader, advice: Iterable[Advice]) -> None:
        self._loader = loader
        self.ways = {each.source.identity: each for each in advice}

    def weigh(self, source: Source) -> int:
        """See `Loader`."""
        return self._done(source, self._loader.weigh)

    def open(self, source: Source) -> Model:
        """See `Loader`."""
        return self._done(source, self._loader.open)

    def _done(self, source: Source, do: Callable[[Source], T]) -> T:
        plain = self.ways[source.identity].plain
        try:
            return do(source)
        except RuntimeFailure as error:
            if source == plain:
                raise
            done = do(plain)
            self.ways[source.identity] = Advice(plain, plain, failed(error))
            return done


_COMPANIONS = {"against_share": "against", "salt": "against", "shadow_share": "shadow", "shadow_cpu": "shadow"}
"""Options that say how another one works."""


def _check_company(settings: Settings) -> None:
    """Raises `click.BadParameter` where an option says how something works that was not asked for."""
    defaults = Settings(models=())
    for option, other in _COMPANIONS.items():
        if getattr(settings, other) is None and getattr(settings, option) != getattr(defaults, option):
            raise click.BadParameter(f"It says how --{other} works; give that too.", param_hint=f"--{option.replace('_', '-')}")


def _offered(settings: Settings) -> list[Advice]:
    """The models, each of another name. Raises `ModelRejected` or `click.BadParameter`."""
    found: dict[str, Advice] = {}
    for path in settings.models:
        advice = _advice(path, settings.variant, settings)
        name = advice.source.identity.model
        if name in found:
            raise click.BadParameter(f"{found[name].plain.path} and {path} are both called {name}. Serve one of them.")
        found[name] = advice
    for name in settings.pin:
        if name not in found:
            raise click.BadParameter(f"{name!r} is not served here. Served: {', '.join(sorted(found))}.", param_hint="--pin")
    if settings.pin and settings.memory_budget is None:
        raise click.BadParameter("Without --memory-budget no model makes room for another.", param_hint="--pin")
    if settings.shadow is not None and len(found) > 1:
        raise click.BadParameter("It shadows one model; serve that one alone.", param_hint="--shadow")
    return list(found.values())


def _advice(path: Path, variant: str | None, settings: Settings) -> Advice:
    """How that model is run: as is known here, but for what was asked for. Raises `ModelRejected`."""
    advice = placement.advice(
        path,
        variant=variant,
        tuned=settings.tuned,
        cache=settings.cache,
        provider=settings.provider,
        delegate=settings.delegate,
    )
    known = advice.source
    # A quick model runs on the server's own thread, where none waits for another that could be run with it.
    batch = known.batch if (advice.typical_s or 0.0) >= INLINE_S and not settings.isolate else 1
    source = dataclasses.replace(known, threads=settings.threads or known.threads, batch=settings.batch or batch)
    plain = source if known == advice.plain else dataclasses.replace(advice.plain, threads=settings.threads)
    return dataclasses.replace(advice, source=source, plain=plain)


def _other(offered: list[Advice], settings: Settings) -> list[Advice]:
    """The other version of an experiment, if there is one, under the first one's name. Raises `click.BadParameter`."""
    if settings.against is None:
        return []
    if len(offered) > 1:
        raise click.BadParameter("Two versions of one model are compared; serve that one alone.", param_hint="--against")
    if settings.memory_budget is not None:
        raise click.BadParameter("Both versions stay loaded: no --memory-budget bounds them.", param_hint="--against")
    first, other = offered[0].source.identity, _advice(settings.against, None, settings)
    identity = other.source.identity
    version = identity.version
    if version == UNRELEASED:  # bare files: told apart by what they hold
        version = f"{UNRELEASED}-{identity.manifest.removeprefix('sha256:')[:8]}"
    if version == first.version:
        raise click.BadParameter(
            f"{settings.against} is version {version} too: answers name their version.", param_hint="--against"
        )
    renamed = dataclasses.replace(identity, model=first.model, version=version)
    source, plain = (dataclasses.replace(each, identity=renamed) for each in (other.source, other.plain))
    return [dataclasses.replace(other, source=source, plain=plain)]


def _loader(settings: Settings) -> Loader:
    """Raises `click.BadParameter`."""
    if not settings.isolate:
        return InProcess(crowds=settings.memory_budget is None)
    if (settings.batch or 1) > 1:
        raise click.BadParameter("Isolated models run one request at a time; leave one of the two out.", param_hint="--batch")
    from runtime.hosting.isolated import InChildren

    return InChildren()


@contextlib.contextmanager
def _pool(offered: list[Advice], loader: Loader, settings: Settings) -> Iterator[ModelPool]:
    """The models in a pool that loads and admits as was asked. Raises `RuntimeFailure`."""
    isolated = Limits(1, settings.max_waiting, aside=True)
    limits = isolated if settings.isolate else default_limits(waiting=settings.max_waiting)
    pool = ModelPool(budget_bytes=settings.memory_budget, loader=loader, limits=limits)
    try:
        for each in offered:
            name = each.source.identity.model
            pool.offer(each.source, pinned=name in settings.pin)
            if settings.memory_budget is None:
                pool.fetch(name)
        yield pool
    finally:
        pool.close()


def _experiment(pool: ModelPool, first: Advice, other_pool: ModelPool, other: Advice, settings: Settings) -> Experiment:
    pools = {first.source.identity.version: pool, other.source.identity.version: other_pool}
    shares = (1 - settings.against_share, settings.against_share)
    split = Split(settings.salt, dict(zip(pools, shares, strict=True)))
    return Experiment(first.source.identity.model, split, pools)


def _server(
    models: ModelPool | Experiment, repository: Repository, settings: Settings, hung: Callable[[str], object]
) -> LocalServer:
    """Raises `click.BadParameter`."""
    return LocalServer(
        models,
        address=settings.address,
        port=settings.port,
        repository=repository if settings.manage else None,
        token=_token(settings.token_file),
        timeout_s=settings.timeout,
        grpc=_grpc_listener(settings.address, settings.grpc_address, settings.grpc_port),
        hung=hung,
    )


def _shadow(pool: ModelPool, name: str, settings: Settings) -> Shadow | None:
    if settings.shadow is None:
        return None
    from runtime.shadowing.shadow import Shadow

    return Shadow(pool, name, find(settings.shadow), Allowance(settings.shadow_share, settings.shadow_cpu))


def _grpc_listener(address: str, grpc_address: str | None, port: int | None) -> str | None:
    """Where gRPC listens: its own address or HTTP's, with its port. Raises `click.BadParameter`."""
    if "" in (address, grpc_address):  # to sockets it means every address of this machine
        raise click.BadParameter("It is empty. Give one such as 127.0.0.1, or 0.0.0.0 for all.", param_hint="--address")
    if "unix:" in (address, grpc_address):
        raise click.BadParameter("A path is wanted behind unix:, such as unix:/run/model.sock.", param_hint="--address")
    where = grpc_address or address
    if grpc_address is None and port is None:
        return None
    if where.startswith("unix:"):
        if port is None:
            return where
        wanted = "An address" if grpc_address is None else "A socket has no port: an address"
        raise click.BadParameter(f"{wanted} is wanted beside --grpc-port, or a socket alone.", param_hint="--grpc-address")
    if port is None:
        raise click.BadParameter("A port is wanted too: --grpc-port.", param_hint="--grpc-address")
    return f"[{where}]:{port}" if ":" in where else f"{where}:{port}"


def _token(file: TextIO | None) -> str | None:
    """The token in the file, without the line's end. Raises `click.BadParameter`."""
    if file is None:
        return None
    try:
        token = file.read().strip()
    except UnicodeDecodeError:
        token = ""
    if not token.isascii() or not token.isprintable() or not token:
        raise click.BadParameter(f"{file.name} holds no token of printable ASCII.", param_hint="--token-file")
    return token
