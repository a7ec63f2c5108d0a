"""The recurrent network against written-out equations, and against itself under padding."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from speechseq.errors import ModelError, UsageError
from speechseq.recipe import ModelSettings, Recipe
from speechseq.training.encoder import (
    CELLS,
    Encoder,
    RecurrentLayer,
    SpeechNetwork,
    choose_device,
    load_network,
    reverse_within,
)
from speechseq.training.front_ends import FRONT_ENDS, ConvolutionBlock, as_frames
from speechseq.training.heads import HEADS, ClassifyHead, CTCHead

POOLINGS = ("last", "mean", "attention")


def reference(cell: torch.nn.RNNBase, frames: Tensor) -> Tensor:
    """The textbook's recurrence, step by step, from a cell's own weights: (frames, hidden)."""
    w, u = cell.weight_ih_l0, cell.weight_hh_l0
    b, c = cell.bias_ih_l0, cell.bias_hh_l0
    hidden = torch.zeros(cell.hidden_size, dtype=frames.dtype)
    memory = torch.zeros_like(hidden)
    states = []
    for x in frames:
        if cell.mode == "RNN_TANH":
            # h_t = f(W x_t + U h_{t-1} + b)
            hidden = torch.tanh(w @ x + u @ hidden + b + c)
        elif cell.mode == "LSTM":
            i, f, g, o = (w @ x + u @ hidden + b + c).chunk(4)
            # C_t = f * C_{t-1} + i * g,  h_t = o * tanh(C_t)
            memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(memory)
        else:
            wr, wz, wn = (w @ x + b).chunk(3)
            ur, uz, un = (u @ hidden + c).chunk(3)
            r, z = torch.sigmoid(wr + ur), torch.sigmoid(wz + uz)
            # h_t = (1 - z) * n + z * h_{t-1}
            hidden = (1 - z) * torch.tanh(wn + r * un) + z * hidden
        states.append(hidden)
    return torch.stack(states)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_cells_equal_their_equations_in_values_and_gradients(
    cell: str, bidirectional: bool
) -> None:
    torch.manual_seed(0)
    settings = ModelSettings(cell=cell, hidden=5, layers=1, bidirectional=bidirectional)
    layer = RecurrentLayer(3, settings).double()
    frames = torch.randn(2, 7, 3, dtype=torch.double, requires_grad=True)
    lengths = torch.tensor([7, 4])
    states = layer(frames, lengths)
    expected = []
    for row, size in enumerate(lengths.tolist()):
        own = frames[row, :size]
        both = [reference(layer.forward_cell, own)]
        if layer.backward_cell is not None:
            both.append(reference(layer.backward_cell, own.flip(0)).flip(0))
        expected.append(torch.cat(both, dim=1))
    weights = [torch.randn_like(e) for e in expected]
    parameters = [frames, *layer.parameters()]
    loss = sum(
        (states[row, : len(e)] * w).sum()
        for row, (e, w) in enumerate(zip(expected, weights, strict=True))
    )
    wanted = sum((e * w).sum() for e, w in zip(expected, weights, strict=True))
    for row, e in enumerate(expected):
        torch.testing.assert_close(states[row, : len(e)], e, rtol=0, atol=1e-6)
    found = torch.autograd.grad(loss, parameters)
    for one, other in zip(found, torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("skip_input", [False, True])
def test_the_output_equals_the_textbooks(skip_input: bool) -> None:
    torch.manual_seed(0)
    settings = ModelSettings(hidden=5, layers=1, bidirectional=False, skip_input=skip_input)
    encoder = Encoder(3, settings)
    head = CTCHead(encoder.dims, encoder.input_dims, 4, settings)
    states, inputs = torch.randn(1, 6, 5), torch.randn(1, 6, 3)
    # y_t = g(W h_t + V x_t + c)
    scores = states @ head.output.state.weight.T + head.output.state.bias
    if skip_input:
        scores = scores + inputs @ head.output.input.weight.T
    found, _ = head(states, inputs, torch.tensor([6]))
    torch.testing.assert_close(found, scores.log_softmax(2), rtol=0, atol=1e-6)


def network(**settings: object) -> SpeechNetwork:
    torch.manual_seed(0)
    recipe = Recipe()
    features = dataclasses.replace(recipe.features, rate=8000, mels=20, low_hz=60.0)
    model = dataclasses.replace(ModelSettings(hidden=16, layers=2), **settings)
    return SpeechNetwork(dataclasses.replace(recipe, features=features, model=model), 7).eval()


def assert_padding_changes_nothing(net: SpeechNetwork) -> None:
    """Alone = in a padded batch of 32, to 1e-5, whatever stands in the padding."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 6000, (32,), generator=generator)
    samples = 0.1 * torch.randn(32, 6100, generator=generator)
    with torch.inference_mode():
        together, lengths = net(samples, sizes)
        for row in range(32):
            alone, length = net(samples[row : row + 1, : sizes[row]], sizes[row : row + 1])
            assert length.item() == lengths[row].item() == alone.shape[1]
            torch.testing.assert_close(together[row, : lengths[row]], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", [None, *POOLINGS], ids=lambda value: value or "ctc")
def test_padding_changes_nothing(cell: str, bidirectional: bool, pooling: str | None) -> None:
    head = {"head": "classify", "pooling": pooling} if pooling else {}
    assert_padding_changes_nothing(network(cell=cell, bidirectional=bidirectional, **head))


@pytest.mark.parametrize(
    ("front_end", "stride"),
    [("none", 1), *itertools.product([x for x in FRONT_ENDS if x != "none"], [1, 2, 3, 4])],
)
def test_front_ends_keep_padding_out_and_count_frames(front_end: str, stride: int) -> None:
    net = network(front_end=front_end, time_stride=stride, channels=4, layer_norm=True, layers=1)
    assert_padding_changes_nothing(net)
    settings = ModelSettings(front_end=front_end, time_stride=stride)
    for frames in range(1, 14):
        states, _, lengths = net.encoder(torch.randn(1, frames, 20), torch.tensor([frames]))
        assert states.shape[1] == lengths.item() == settings.output_frames(frames)


def test_blocks_of_convolutions_keep_padding_out_and_the_shape() -> None:
    net = network(front_end="conv", time_stride=4, channels=4, conv_blocks=2, layers=1)
    assert_padding_changes_nothing(net)
    plain = network(front_end="conv", time_stride=4, channels=4, layers=1)
    frames, lengths = torch.randn(2, 13, 20), torch.tensor([13, 9])
    assert net.encoder(frames, lengths)[0].shape == plain.encoder(frames, lengths)[0].shape


def test_a_block_adds_to_what_it_hears() -> None:
    torch.manual_seed(0)
    block = ConvolutionBlock(3, 12)
    maps, inside = torch.randn(2, 3, 7, 4), torch.ones(2, 1, 7, 1)
    normalised = as_frames(maps)
    normalised = (normalised - normalised.mean(2, keepdim=True)) / normalised.std(
        2, keepdim=True, unbiased=False
    )
    inner = normalised.view(2, 7, 3, 4).transpose(1, 2)
    expected = maps + block.second(block.first(inner).relu())
    torch.testing.assert_close(block(maps, inside), expected, atol=1e-4, rtol=1e-4)


def test_projection_residual_and_norm_keep_padding_out() -> None:
    assert_padding_changes_nothing(
        network(projection=20, residual=True, layer_norm=True, skip_input=True)
    )


def test_a_residual_adds_the_layers_input() -> None:
    torch.manual_seed(0)
    settings = ModelSettings(hidden=4, bidirectional=True, residual=True)
    layer = RecurrentLayer(8, settings)
    frames, lengths = torch.randn(1, 5, 8), torch.tensor([5])
    layer.residual = False
    plain = layer(frames, lengths)
    layer.residual = True
    torch.testing.assert_close(layer(frames, lengths), plain + frames)
    assert not RecurrentLayer(7, settings).residual


def test_reversal_is_within_each_length_and_is_its_own_gradient() -> None:
    frames = torch.arange(8.0).reshape(2, 4, 1).requires_grad_()
    turned = reverse_within(frames, torch.tensor([4, 2]))
    assert turned.flatten().tolist() == [3, 2, 1, 0, 5, 4, 6, 7]
    turned.backward(torch.arange(8.0).reshape(2, 4, 1))
    assert frames.grad.flatten().tolist() == [3, 2, 1, 0, 5, 4, 6, 7]


def test_last_pooling_is_pytorchs_final_hidden_state() -> None:
    torch.manual_seed(0)
    settings = ModelSettings(head="classify", hidden=6, layers=1)
    encoder = Encoder(3, settings)
    head = ClassifyHead(encoder.dims, encoder.input_dims, 4, settings)
    frames, lengths = torch.randn(1, 9, 3), torch.tensor([9])
    layer = encoder.layers[0]
    forward = layer.forward_cell(frames)[1][0][0]
    backward = layer.backward_cell(frames.flip(1))[1][0][0]
    expected = head.output(torch.cat([forward, backward], dim=1), None)
    states, inputs, lengths = encoder(frames, lengths)
    torch.testing.assert_close(head(states, inputs, lengths)[0][:, 0], expected)


@pytest.mark.parametrize(("pooling", "heads"), [("mean", 1), ("attention", 1), ("attention", 3)])
def test_pooling_weights_sum_to_1_and_are_0_beyond_the_end(pooling: str, heads: int) -> None:
    torch.manual_seed(0)
    settings = ModelSettings(head="classify", pooling=pooling, hidden=4, attention_heads=heads)
    encoder = Encoder(3, settings)
    weights = ClassifyHead(encoder.dims, encoder.input_dims, 2, settings).weights(
        torch.randn(2, 5, 8), torch.tensor([5, 2])
    )
    torch.testing.assert_close(weights.sum(1), torch.ones(2, heads))
    assert weights[1, 2:].abs().max() == 0
    assert weights[1, :2].min() > 0
    for head in range(1, heads):
        assert not torch.allclose(weights[..., head], weights[..., 0]), "heads look apart"


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("skip_input", [False, True])
def test_attention_equals_its_equations(heads: int, skip_input: bool) -> None:
    """a = softmax(H w + b) over time; the heads' means lie side by side, of x_t their mean."""
    torch.manual_seed(0)
    settings = ModelSettings(
        head="classify", pooling="attention", hidden=4, attention_heads=heads, skip_input=skip_input
    )
    encoder = Encoder(3, settings)
    head = ClassifyHead(encoder.dims, encoder.input_dims, 5, settings)
    states, inputs = torch.randn(2, 7, 8), torch.randn(2, 7, 3)
    found, lengths = head(states, inputs, torch.tensor([7, 4]))
    assert lengths.tolist() == [1, 1]
    for row, size in enumerate((7, 4)):
        own, entries = states[row, :size], inputs[row, :size]
        looks = [
            (own @ w + b).exp() / (own @ w + b).exp().sum()
            for w, b in zip(head.attention.weight, head.attention.bias, strict=True)
        ]
        state = torch.cat([(a.unsqueeze(1) * own).sum(0) for a in looks])
        scores = head.output.state.weight @ state + head.output.state.bias
        if skip_input:
            entry = sum((a.unsqueeze(1) * entries).sum(0) for a in looks) / heads
            scores = scores + head.output.input.weight @ entry
        torch.testing.assert_close(found[row, 0], scores.log_softmax(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"skip_input": True, "bidirectional": False}])
def test_several_heads_keep_padding_out(more: dict[str, bool]) -> None:
    several = {"head": "classify", "pooling": "attention", "attention_heads": 3}
    assert_padding_changes_nothing(network(**several, **more))


@pytest.mark.parametrize("head", HEADS)
def test_log_probabilities_sum_to_1(head: str) -> None:
    log_probs, lengths = network(head=head)(torch.randn(2, 1000), torch.tensor([1000, 500]))
    torch.testing.assert_close(log_probs.exp().sum(2), torch.ones(log_probs.shape[:2]))
    assert (head == "ctc") == (lengths.tolist() != [1, 1])


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="did you mean 'cuda'"):
        choose_device("cuda0")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device cuda: PyTorch finds none here; use"):
            choose_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_equals_cpu() -> None:
    net = network()
    samples, lengths = torch.randn(3, 4000), torch.tensor([4000, 1000, 300])
    expected, _ = net(samples, lengths)
    found, _ = net.cuda()(samples.cuda(), lengths.cuda())
    torch.testing.assert_close(found[0].cpu(), expected[0], rtol=0, atol=1e-3)


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(ModelError, match="cannot be read"):
        load_network(path, Recipe(), 5)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ModelError, match="cannot be read"):
        load_network(path, Recipe(), 5)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="not this recipe's weights"):
        load_network(path, Recipe(), 5)
