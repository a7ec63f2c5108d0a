"""Recipes as YAML files, with overrides; a module of its own, as a model file needs no YAML."""

from __future__ import annotations

import os
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from speechseq.errors import UsageError, brief
from speechseq.recipe import Recipe
from speechseq.recipe_checks import recipe_from_dict


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, but refuses what hides mistakes or takes for ever to read.

    That is a key written twice, a number too long to print, and an alias of a list or mapping:
    nested ones stand for more than any memory holds.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias and isinstance(node, yaml.CollectionNode):
            raise yaml.composer.ComposerError(
                None, None, "an alias of a list or mapping; write it out", node.start_mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # PyYAML refuses those it cannot hash
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{brief(key_node.value)} is written twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if value.bit_length() > 64:
            raise yaml.constructor.ConstructorError(
                None, None, "a number beyond 64 bits", node.start_mark
            )
        return value

    yaml_constructors: typing.ClassVar = {
        **yaml.SafeLoader.yaml_constructors,
        "tag:yaml.org,2002:int": construct_yaml_int,
    }


def parse_yaml(text: str) -> Any:
    """Parse YAML strictly: a key written twice and aliases of more than a value are refused.

    Raises:
        yaml.YAMLError: it is not such; whatever PyYAML raises for a wrong `!!tag` becomes one, too.
    """
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 (a safe loader)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None


def read_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and lay `section.key=value` overrides over it.

    Raises:
        UsageError: the file cannot be read, is not two levels of YAML, or a key or value is wrong.
    """
    path = Path(path)
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give a recipe file") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: not YAML ({reason}); correct the line") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: not a mapping; write 'section:' and its keys below it")
    tree.setdefault("name", path.stem)
    for override in overrides:
        _lay_over(tree, override)
    return recipe_from_dict(tree, str(path))


def _lay_over(tree: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    section, dot, key = name.partition(".")
    if not equals or not section or (dot and not key):
        raise UsageError(f"{override}: not an override; write section.key=value")
    try:
        parsed = parse_yaml(value)
    except yaml.YAMLError:
        raise UsageError(f"{override}: {brief(value)} is not a YAML value; quote it") from None
    if not dot:
        tree[section] = parsed
    elif isinstance(keys := tree.get(section) or {}, dict):
        tree[section] = {**keys, key: parsed}
    else:
        raise UsageError(
            f"{override}: {section!r} is {brief(keys)}, not a section; correct the key"
        )
