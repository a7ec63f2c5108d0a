"""train(recipe): from a recipe to a run folder that holds a shippable model file.

Read it from top to bottom: data, preflight, network, steps, validation, export. What a step is
stands in `step`.
"""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from speechseq.corpora import CORPORA
from speechseq.corpora.shards import CORPUS as SHARDS
from speechseq.errors import DataError, ModelError, SpeechseqError
from speechseq.manifest import shared_audio
from speechseq.model_file import RUN_MODEL, RUN_WEIGHTS
from speechseq.recipe import Recipe
from speechseq.splits import training_splits
from speechseq.tokens import Vocabulary
from speechseq.training.base import settings_of_base, start_from, teacher_of
from speechseq.training.checkpoint import has_checkpoint
from speechseq.training.data import TrainingData
from speechseq.training.distributed import World, from_environment, joined, restarted
from speechseq.training.encoder import SpeechNetwork, choose_device, load_network
from speechseq.training.export import export_run
from speechseq.training.noise import noise_log_mels
from speechseq.training.notes import Note, Show
from speechseq.training.objective import PRECISIONS, Objective, computed_in, from_features
from speechseq.training.phones import Spoken
from speechseq.training.preflight import (
    Ready,
    drop_infeasible,
    fit_cmvn,
    make_split,
    none_of,
    preflight,
    says_of,
    size_of,
    space_of,
    vocabulary_of,
)
from speechseq.training.run_folder import (
    alone,
    begin_run,
    begun_with,
    read_run,
    refuse_other_data,
    refuse_other_settings,
    refuse_run,
)
from speechseq.training.step import Training
from speechseq.training.stream import streamed
from speechseq.training.watch import line_of, metrics_of

CHECKPOINT_SECONDS = 600
"""A long epoch is checkpointed this often inside it, too."""


def train(
    recipe: Recipe,
    run: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    note: Note = lambda text: None,
    show: Show = lambda what, done, of: None,
) -> Path:
    """Train a recipe into the folder `run` and return the exported model file.

    The folder gets the resolved recipe, vocabulary, metrics (JSON lines, TensorBoard), versions,
    checkpoints, the best weights and ``model.onnx``. SIGINT and SIGTERM leave a checkpoint. Under
    torchrun, every process calls this, and the first one writes; one that torchrun started again
    goes on with the run.

    Raises:
        DataError: corpus, split or text is missing or cannot be learnt from.
        ModelError: `run` holds a run already, or, with `resume`, none.
        KeyboardInterrupt: stopped by a signal, after the checkpoint is written.
        GateFailed: the exported file does not compute what the network computes.
        SpeechseqError: another process of this training died, after the checkpoint is written.
    """
    recipe = recipe if resume else settings_of_base(recipe)
    world, where = from_environment(), choose_device(device)
    resume = resume or (restarted() and begun_with(run, recipe))
    if not world.writes:
        note, show = lambda text: None, lambda what, done, of: None
    if where.type == "cuda" and world.size > 1:
        where = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(where)
    mine = alone(run) if world.writes else nullcontext()
    with mine, _flushed_denormals(), _one_line(world), joined(world, where) as world:
        resume = bool(world.total(torch.tensor(float(resume), device=where)) > 0)
        training = prepare(
            recipe, run, device=where, world=world, resume=resume, note=note, show=show
        )
        run_epochs(training, show)
    recipe, vocabulary = training.recipe, training.vocabulary
    if not world.writes:
        return run / RUN_MODEL
    best = load_network(run / RUN_WEIGHTS, recipe, vocabulary)
    clips = [u for u in training.validation.utterances if u.audio_filepath]
    return export_run(best, recipe, vocabulary, run / RUN_MODEL, utterances=clips, note=note)


def run_epochs(training: Training, show: Show) -> None:
    """Run the epochs that are left; each ends with a validation, a checkpoint and a line.

    Raises:
        KeyboardInterrupt: stopped by a signal, after a checkpoint.
        SpeechseqError: another process died, after a checkpoint.
    """
    saved = time.perf_counter()
    world, progress = training.world, training.progress
    with metrics_of(training) as write, _stop_requested() as stopped, _others_alive(training):
        while not training.finished():
            began = time.perf_counter()
            steps = training.data.steps_of(progress.epoch)
            for pieces in training.batches():
                stop = training.step(pieces, stopped())
                show(training.status(), progress.batch, steps)
                stop = stop or (world.size == 1 and stopped())
                if stop or time.perf_counter() - saved > CHECKPOINT_SECONDS:
                    progress.seconds += time.perf_counter() - began
                    began = saved = time.perf_counter()
                    training.checkpoint()
                if stop:
                    at = progress.step
                    training.note(f"stopped at step {at}; go on with --resume {training.run}")
                    raise KeyboardInterrupt
            progress.seconds += time.perf_counter() - began
            row = training.end_epoch()
            write(row)
            training.checkpoint()
            training.note(line_of(row, training.recipe.training.epochs))


def prepare(
    recipe: Recipe,
    run: Path,
    *,
    device: torch.device,
    world: World,
    resume: bool,
    note: Note,
    show: Show,
) -> Training:
    """Read the data, build the network (or take up the newest checkpoint) and say what is ahead.

    Raises: as `train`.
    """
    vocabulary: Vocabulary | None = None
    if resume:
        recipe, vocabulary = read_run(run)
        refuse_other_settings(run, recipe)
    else:
        refuse_run(run)
    _check_precision(recipe, device, note)
    torch.manual_seed(recipe.seed)
    torch.set_float32_matmul_precision("high" if recipe.training.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = recipe.training.tf32

    read = streamed if recipe.data.corpus == SHARDS.name else listed
    ready = read(recipe, vocabulary, world, note=note, show=show)
    network = SpeechNetwork(recipe, ready.vocabulary).to(device)
    if recipe.training.base and not (resume and has_checkpoint(run)):
        start_from(network, recipe, ready.vocabulary, note)
    else:
        fit_cmvn(network, *ready.sample)

    training = _assembled(recipe, run, ready, network, device, world, note)
    lines = preflight(ready, recipe, network=network, steps=training.steps)
    for line in (*lines, training.try_largest()):
        note(line)
    if resume:
        refuse_other_data(run, ready.sizes)
        training.take_up()
    elif world.writes:
        begin_run(run, recipe, ready.vocabulary, ready.sizes)
    return training


def _assembled(
    recipe: Recipe,
    run: Path,
    ready: Ready,
    network: SpeechNetwork,
    device: torch.device,
    world: World,
    note: Note,
) -> Training:
    """Put the loss, the optimiser and the averaged weights beside a network and its data."""
    return Training(
        recipe=recipe,
        run=run,
        device=device,
        world=world,
        vocabulary=ready.vocabulary,
        data=ready.data,
        validation=ready.validation,
        network=network,
        parallel=world.parallel(from_features(network, recipe), device),
        objective=Objective(
            recipe,
            device,
            network.features,
            teacher=teacher_of(recipe, ready.vocabulary, device),
            shares=None if ready.shares is None else ready.shares.to(device),
            spoken=Spoken.of(ready.vocabulary, device) if ready.vocabulary.phones else None,
        ),
        averaged=copy.deepcopy(network).eval(),
        optimiser=torch.optim.AdamW(
            network.parameters(),
            lr=recipe.training.learning_rate,
            weight_decay=recipe.training.weight_decay,
            fused=True,
        ),
        scaler=torch.amp.GradScaler(device.type, enabled=recipe.training.precision == "fp16"),
        steps=ready.data.steps(recipe.training.epochs),
        note=note,
    )


def listed(
    recipe: Recipe, vocabulary: Vocabulary | None, world: World, *, note: Note, show: Show
) -> Ready:
    """List the training utterances and get their log-mels; a new run gets its vocabulary.

    Raises:
        DataError: corpus, split or text is missing or cannot be learnt from.
    """
    utterances, held = training_splits(recipe.data, recipe.seed)
    if shared := shared_audio(utterances, held):
        problem = f"data: train and validation share {len(shared)} clips, {min(shared)} first"
        if recipe.training.weights == "best":
            raise DataError(f"{problem}; part them, or choose by nothing: training.weights=last")
        note(f"{problem}; validation says nothing of new speech")
    vocabulary = vocabulary or vocabulary_of(recipe, utterances)
    with world.first_here():
        split = make_split(recipe, vocabulary, utterances, recipe.augment.speeds, show)
        validation = make_split(recipe, vocabulary, held, (1.0,), show, told=True)
    split = drop_infeasible(recipe, split, note)
    data = TrainingData(
        split.utterances,
        split.log_mels,
        split.labels,
        noise_log_mels(recipe, CORPORA[recipe.data.corpus]),
        recipe,
        space=space_of(recipe, vocabulary),
        none=none_of(recipe, vocabulary),
    )
    sample = (split.log_mels, recipe.augment.speeds)
    sizes = {"train": size_of(split.utterances), "validation": size_of(held)}
    says = says_of(split, validation, vocabulary)
    shares = None
    if recipe.training.logit_adjustment:
        shares = data.shares(vocabulary.told_as)[: len(vocabulary.names)]
    return Ready(vocabulary, data, validation, sample, says, sizes, shares)


def _check_precision(recipe: Recipe, device: torch.device, note: Note) -> None:
    wanted = recipe.training.precision
    if wanted == "fp16" and device.type == "cpu":
        raise ModelError("training.precision fp16: needs a GPU; use bf16 or fp32 on the CPU")
    if computed_in(recipe, device) != PRECISIONS[wanted]:
        note(f"training.precision {wanted}: this CPU has no instructions for it; computing in fp32")


@contextmanager
def _others_alive(training: Training) -> Iterator[None]:
    """Turn the death of another process into a checkpoint and one clear line.

    The weights move only after a step's last exchange, so what a failed exchange leaves is whole.
    """
    world = training.world
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or training.moving:
            raise
        training.checkpoint()
        raise SpeechseqError(
            f"training: process {world.rank} of {world.size} lost the others at step "
            f"{training.progress.step} ({_first_line(error)}); go on with --resume {training.run}"
        ) from None


@contextmanager
def _one_line(world: World) -> Iterator[None]:
    """Say in one line what PyTorch raises while the processes meet and prepare."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1:
            raise
        raise SpeechseqError(
            f"training: process {world.rank} of {world.size} failed ({_first_line(error)}); see "
            f"what the others said"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:120]


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Let numbers near zero be zero: gates and averages reach them, and they are slow."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """Yield a question: has SIGINT or SIGTERM come? A second SIGINT interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event.is_set
        return

    def handle(number: int, frame: object) -> None:
        # A scheduler and torchrun may both pass SIGTERM on; only a second Ctrl-C is a person's.
        if event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
