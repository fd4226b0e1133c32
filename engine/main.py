"""The engine's process: build everything that the loop owns, run it until SIGTERM, leave a checkpoint.

    python -m engine.main       with the settings in SAESTREAM_RUN_SETTINGS, as `engine.supervisor` starts it

Exit status 0 after SIGTERM, 3 (`REFUSED`) when the settings, the model or the data directory make a run impossible; anything else
is a crash, after which the supervisor starts it again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import msgspec
import torch
from tokenizers import Tokenizer

from engine import durable, logs
from engine.calibration import Calibration, FrozenThresholds
from engine.calibration_pass import CalibrationPass
from engine.corpus.inbox import Inbox
from engine.corpus.ingest import Ingest
from engine.corpus.log import CorpusLog, LogIndex
from engine.corpus.quota import Quota
from engine.corpus.retention import Retention
from engine.corpus.tokenizer import DocumentTokenizer
from engine.counts import budget
from engine.counts.checkpoint import Checkpoints, require_same_run
from engine.counts.shape import RunShape
from engine.counts.state import State
from engine.encoder.decoder_file import DECODERS, write_decoders
from engine.encoder.description import RunDescription
from engine.encoder.encoder import ModelEncoder
from engine.encoder.pushed import PushedActivations
from engine.encoder.tokenizer_file import TOKENIZER, write_tokenizer
from engine.errors import AlreadyRunning, DamagedFile, DoesNotFit, OtherRun, SaestreamError
from engine.loop import Loop
from engine.pace import MicroBatchSize
from engine.recovery import recover
from engine.settings import Settings
from engine.supervisor import REFUSED, SETTINGS_VARIABLE, lock
from engine.uploads import Uploads
from engine.views.convergence import Convergence
from engine.views.decoder import DecoderCosines
from engine.views.effects import Effects
from engine.views.live import LiveQueries
from engine.views.prompt_queries import PromptQueries
from engine.views.publisher import Publisher
from engine.views.publishing import Publishing
from engine.views.watch import Watch

log = logging.getLogger(__name__)

DEMO = Path(__file__).parent / "demo"
DEMO_NAME = "saestream-demo"  # what the bundled model is called, wherever it is installed
_DENSE_BYTES = 1 << 30  # of one layer's SAE output that may exist at once: bounds the micro-batch at large dictionaries
_PREDECESSOR_SECONDS = 90.0  # an engine that is still saving its checkpoint is waited for


def main() -> int:
    """Run the engine; the exit status."""
    settings = Settings.model_validate_json(os.environ[SETTINGS_VARIABLE])
    logs.setup("engine", settings.log_format, settings.log_requests)
    stop = threading.Event()

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_sigterm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the supervisor turns it into SIGTERM for us
    try:
        holder = lock(settings.data_dir / "engine.lock", "an engine", _PREDECESSOR_SECONDS)
        try:
            loop = build(settings, stop)
            if loop is not None:
                loop.run()
        finally:
            holder.close()
    except (AlreadyRunning, DamagedFile, DoesNotFit, OtherRun) as error:
        log.error("%s: %s", error.title, error.message)
        return REFUSED
    except SaestreamError as error:
        log.error("%s: %s", error.title, error.message)
        return 1
    return 0


def build(settings: Settings, stop: threading.Event) -> Loop | None:
    """Load the model, open the log, calibrate where the threshold is relative and that was not done, read the newest checkpoint.

    Returns:
        The loop, ready to run; None when `stop` came during calibration.

    Raises:
        DoesNotFit, OtherRun, DamagedFile: this run is impossible; the message says why.
    """
    durable.make_folders(settings.data_dir)
    epoch = int(time.time() * 1000)
    torch.set_num_threads(settings.threads)
    encoder = load_encoder(settings)
    description = encoder.describe()
    if settings.dictionary is None and settings.model is None:
        description = msgspec.structs.replace(description, model=DEMO_NAME, saes=DEMO_NAME)
    description = msgspec.structs.replace(description, threshold=settings.threshold)
    everywhere = settings.threshold.value if settings.threshold.kind == "absolute" else 0.0  # relative ones come with calibration
    shape = RunShape.of(
        description.dictionaries, settings.pairs, everywhere, settings.device, gate_candidates=settings.gate_candidates
    )
    shape = budget.fit(shape, settings.memory_budget)
    log.info("%s", budget.describe(shape))
    run = fingerprint(description, shape, settings)
    checkpoints = Checkpoints(settings.data_dir / "checkpoints", settings.checkpoint_interval)
    describe_run(settings.data_dir / "run.json", description, run, checkpoints.fingerprint())
    if isinstance(encoder, ModelEncoder):
        write_decoders(settings.data_dir / DECODERS, encoder.saes, description.fingerprint)
        write_tokenizer(settings.data_dir / TOKENIZER, encoder.tokenizer)
    inbox, log_root = Inbox(settings.data_dir / "inbox"), settings.data_dir / "log"
    cosines = DecoderCosines(encoder.decoder_directions if isinstance(encoder, ModelEncoder) else None, shape.pairs)
    effects = Effects(shape.dictionaries)
    publisher = Publisher(settings, description, epoch, cosines, effects)
    micro_batch = MicroBatchSize(settings.micro_batch_seconds, _DENSE_BYTES // (4 * max(description.dictionaries)))
    tokenizer = encoder.tokenizer
    new_ingest = partial(
        Ingest,
        inbox,
        tokenizer=None if tokenizer is None else DocumentTokenizer(tokenizer),
        content=description.content_size,
        dictionaries=description.dictionaries,
        segment_tokens=settings.segment_tokens,
        quiet_ms=settings.quiet_ms,
    )
    frozen = None
    if settings.threshold.kind == "relative":
        path = settings.data_dir / "thresholds"
        frozen = FrozenThresholds.load(path, run)
        if frozen is None:
            corpus = CorpusLog(log_root)
            calibration_pass = CalibrationPass(
                calibration=Calibration(shape.dictionaries, settings.calibration_tokens, settings.device),
                path=path,
                encoder=encoder,
                description=description,
                fingerprint=run,
                shape=shape,
                corpus=corpus,
                ingest=new_ingest(corpus=corpus, consumed=-1),
                uploads=Uploads(inbox, corpus, LogIndex()),
                publisher=publisher,
                micro_batch=micro_batch,
                stop=stop,
            )
            frozen = calibration_pass.run()
        if frozen is None:
            return None
        shape = RunShape.of(
            shape.dictionaries, shape.pairs, frozen.thresholds, settings.device, gate_candidates=settings.gate_candidates
        ).with_bounded(shape.bounded)
    if isinstance(encoder, ModelEncoder):
        encoder.project_errors(shape.pairs)
    found = recover(checkpoints, log_root, run, settings.device, shape.bounded)
    if found.state and not found.state.shape.same_counts_as(shape):
        raise DamagedFile(f"{checkpoints.root} was counted with other thresholds than {settings.data_dir / 'thresholds'} holds")
    state, corpus = found.state or State.of_shape(shape), found.corpus
    if state.tokens:
        effects.update(state)
    guard = threading.Lock()
    live = LiveQueries(settings, description, state, guard, cosines, None if tokenizer is None else decoder(tokenizer), effects)
    if tokenizer is not None and description.content_size is not None:
        texts, content = DocumentTokenizer(tokenizer), description.content_size
        encode = partial(micro_batch.encode_first, encoder.encode)
        live.prompts = PromptQueries(state, encode, content, texts, decoder(tokenizer), cosines, effects)
    return Loop(
        encoder=encoder,
        description=description,
        fingerprint=run,
        corpus=corpus,
        ingest=new_ingest(corpus=corpus, consumed=found.cursor.segment - 1),
        uploads=Uploads(inbox, corpus, found.counted),
        state=state,
        cursor=found.cursor,
        checkpoints=checkpoints,
        retention=Retention(Quota.of(settings), inbox, corpus, settings.retention == "drop"),
        publishing=Publishing(publisher, settings.publish_interval, settings.threads),
        live=live,
        effects=effects,
        watch=Watch(settings.data_dir / "watch", settings.watched_pairs, shape.pairs),
        convergence=Convergence.load(found.convergence) if found.convergence else Convergence(shape.pairs),
        lock=guard,
        micro_batch=micro_batch,
        stop=stop,
        calibration=None if frozen is None else frozen.status(),
    )


def decoder(tokenizer: Tokenizer) -> Callable[[int], str]:
    """Token id → its text, special tokens by their names."""
    return lambda token: tokenizer.decode([token], skip_special_tokens=False)


def load_encoder(settings: Settings) -> ModelEncoder | PushedActivations:
    """The encoder that the settings ask for: pushed activations, a model with its SAEs, or the bundled demo.

    Raises:
        DoesNotFit: a name that isn't found, parts that don't belong together, or a GPU that isn't there.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise DoesNotFit("--device cuda: PyTorch finds no GPU on this machine; use --device cpu")
    if settings.fused_encode and settings.device != "cuda":
        raise DoesNotFit(f"fused_encode: only --device cuda has it, this run has --device {settings.device}; leave it out")
    if settings.dictionary is not None:
        return PushedActivations(settings.dictionary, device=settings.device)
    return ModelEncoder.load(
        settings.model or str(DEMO / "model"),
        settings.saes or str(DEMO / "saes"),
        settings.device,
        context_size=settings.context_size,
        include_special=settings.include_special,
        fused_encode=settings.fused_encode,
    )


def fingerprint(description: RunDescription, shape: RunShape, settings: Settings) -> dict[str, str]:
    """Everything that two runs must agree in to be one: not batch size, device, threads or k."""
    relative = settings.threshold.kind == "relative"
    return {
        **description.fingerprint,
        "threshold": str(settings.threshold),
        **({"calibration tokens": str(settings.calibration_tokens)} if relative else {}),
        "layer pairs": ", ".join(f"{up}-{down}" for up, down in shape.pairs),
        "gate candidates": str(shape.gate_candidates),
        **({"bounded tables": ", ".join(f"{up}-{down}" for up, down in shape.bounded)} if shape.bounded else {}),
        "packing": "document",
        "dtype": "float32",
    }


def describe_run(path: Path, description: RunDescription, run: dict[str, str], counted: dict[str, str] | None) -> None:
    """See that this is the run of the data directory, and write what is measured to `run.json`, which the API reads.

    Args:
        counted: the fingerprint in the newest checkpoint; None where there is none, and `run.json` alone says whose folder it is.

    Raises:
        OtherRun: the data directory belongs to another run; the message says what differs.
        DamagedFile: `run.json` says nothing, and there is no checkpoint that would.
    """
    theirs = counted
    if theirs is None and path.exists():
        try:
            theirs = msgspec.json.decode(path.read_bytes(), type=RunDescription).fingerprint
        except ValueError as error:  # msgspec's own, or of text that is no UTF-8
            raise DamagedFile(
                f"{path} does not describe a run ({error}), and there is no checkpoint yet that would: remove it if the data "
                "directory is of a run with these settings"
            ) from error
    if theirs is not None:
        require_same_run(path.parent, theirs, run)
    described = msgspec.structs.replace(description, fingerprint=run)
    durable.write_file(path, [msgspec.json.format(msgspec.json.encode(described))])


if __name__ == "__main__":
    sys.exit(main())
