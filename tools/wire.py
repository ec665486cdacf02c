"""Writes the page's TypeScript types and defaults from the structs that Python publishes and understands.

    python -m tools.wire

The result, ``js/src/wire.ts``, is checked in, so that building the bundle needs no Python. A test fails when it is out
of date.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any, get_args

from msgspec import inspect

from modeldeck._errors import error_codes
from modeldeck._notices import NoticeCode
from modeldeck._types import (
    Action,
    BaseModelRelation,
    FitReasonCode,
    FitVerdict,
    Gated,
    ReasonCode,
    SidecarKind,
    SortKey,
)
from modeldeck.widget import requests
from modeldeck.widget.licences import LicenceKind
from modeldeck.widget.model_card import CardTag
from modeldeck.widget.publisher import as_json
from modeldeck.widget.traits import (
    DeckState,
    EngineMode,
    HostSource,
    KVType,
    Locale,
    ModelKind,
    VariantAction,
    VariantState,
)

PATH = Path(__file__).resolve().parent.parent / "js" / "src" / "wire.ts"
_WIDTH = 120

_NAMED = {
    "Gated": Gated,
    "SortKey": SortKey,
    "FitVerdict": FitVerdict,
    "SidecarKind": SidecarKind,
    "Action": Action,
    "VariantAction": VariantAction,
    "VariantState": VariantState,
    "EngineMode": EngineMode,
    "HostSource": HostSource,
    "KVType": KVType,
    "ModelKind": ModelKind,
    "ReasonCode": ReasonCode,
    "Locale": Locale,
    "LicenceKind": LicenceKind,
    "CardTag": CardTag,
    "BaseModelRelation": BaseModelRelation,
    "FitReasonCode": FitReasonCode,
    "NoticeCode": NoticeCode,
    "ToastCode": requests.ToastCode,
}
"""Types that have a name of their own in TypeScript too. Structs, dataclasses and enums always have."""

_HEAD = """\
// What travels between Python and the page. Written by `python -m tools.wire` from src/modeldeck/widget/traits.py and
// requests.py; do not edit.
"""

_TAIL = """\
export type Traits = { [name: string]: unknown } & { [Part in keyof DeckState as `_${Part}`]: DeckState[Part] };

export type Method = keyof Methods;

export interface Request<M extends Method = Method> {
  kind: "modeldeck-request";
  id: string;
  method: M;
  params: Methods[M];
}
"""

_Composite = inspect.StructType | inspect.DataclassType


class Writer:
    """Collects the declarations that some types need, each once."""

    def __init__(self) -> None:
        self._names = {name: inspect.type_info(type_) for name, type_ in _NAMED.items()}
        self.declarations: dict[str, str] = {}

    def type_of(self, type_: inspect.Type) -> str:
        """How TypeScript spells a type, which is declared if it has a name."""
        for name, named in self._names.items():
            if named == type_:
                self.declarations.setdefault(name, _alias(name, self._anonymous(type_).split(" | ")))
                return name
        if isinstance(type_, inspect.EnumType):
            name = type_.cls.__name__
            self.declarations.setdefault(name, _alias(name, _texts(type_.cls)))
            return name
        if isinstance(type_, _Composite):
            self._declare(type_)
            return type_.cls.__name__
        return self._anonymous(type_)

    def _declare(self, type_: _Composite) -> None:
        name = type_.cls.__name__
        if name in self.declarations:
            return
        self.declarations[name] = ""  # keeps its place before what it is made of
        tag = []
        if isinstance(type_, inspect.StructType) and type_.tag_field is not None:
            tag = [f"  {type_.tag_field}: {json.dumps(type_.tag)};\n"]
        fields = [f"  {field.encode_name}: {self.type_of(field.type)};\n" for field in type_.fields]
        self.declarations[name] = f"{_comment(type_.cls)}export interface {name} {{\n{''.join(tag + fields)}}}\n"

    def _anonymous(self, type_: inspect.Type) -> str:
        match type_:
            case inspect.StrType():
                return "string"
            case inspect.BoolType():
                return "boolean"
            case inspect.IntType() | inspect.FloatType():
                return "number"
            case inspect.NoneType():
                return "null"
            case inspect.AnyType():
                return "unknown"
            case inspect.LiteralType(values=values):
                return " | ".join(json.dumps(value) for value in values)
            case inspect.UnionType(types=types):
                return " | ".join(self.type_of(each) for each in types)
            case inspect.DictType(key_type=key, value_type=value):
                return f"Record<{self.type_of(key)}, {self.type_of(value)}>"
            case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
                text = self.type_of(item)
                return f"({text})[]" if " " in text else f"{text}[]"
        raise TypeError(f"The page has no type for {type_}. Teach tools/wire.py one.")

    def methods(self) -> str:
        """Each method of the page's requests with its parameters."""
        lines = []
        for cls in get_args(requests.Request):
            info = inspect.type_info(cls)
            assert isinstance(info, inspect.StructType)
            fields = [
                f"{field.encode_name}{'' if field.required else '?'}: {self.type_of(field.type)}"
                for field in info.fields
            ]
            params = f"{{ {'; '.join(fields)} }}" if fields else "Record<string, never>"
            line = f"  {info.tag}: {params};\n"
            if len(line) > _WIDTH:
                line = f"  {info.tag}: {{\n" + "".join(f"    {field};\n" for field in fields) + "  };\n"
            lines.append(f"  /** {_first_line(cls)} */\n{line}")
        return "/** Each method with its parameters. */\nexport interface Methods {\n" + "".join(lines) + "}\n"


def wire_text() -> str:
    """The whole of ``js/src/wire.ts``."""
    writer = Writer()
    writer.type_of(inspect.type_info(DeckState))
    messages = [writer.type_of(inspect.type_info(cls)) for cls in get_args(requests.Message)]
    methods = writer.methods()
    parts = [
        _HEAD,
        *writer.declarations.values(),
        "/** The state of a widget of which nothing is known. */\n"
        f"export const EMPTY_STATE: DeckState = {_literal(as_json(DeckState()))};\n",
        "/** The code of each error that Python knows. */\n"
        + _alias("ErrorCode", [json.dumps(code) for code in error_codes()]),
        _alias("Message", messages),
        methods,
        _TAIL,
    ]
    return "\n".join(parts)


def _texts(cls: type[enum.Enum]) -> list[str]:
    return [json.dumps(member.value) for member in cls]


def _alias(name: str, types: list[str]) -> str:
    """The declaration of a union, on one line if it fits into one."""
    line = f"export type {name} = {' | '.join(types)};\n"
    if len(line) <= _WIDTH:
        return line
    return f"export type {name} =" + "".join(f"\n  | {each}" for each in types) + ";\n"


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0].replace("``", "`")


def _comment(cls: type) -> str:
    return f"/** {_first_line(cls)} */\n"


def _literal(value: Any, indent: str = "") -> str:
    """A JSON value as TypeScript writes it."""
    if not value or not isinstance(value, dict):
        return json.dumps(value)
    lines = "".join(f"{indent}  {key}: {_literal(inner, indent + '  ')},\n" for key, inner in value.items())
    return f"{{\n{lines}{indent}}}"


def main() -> None:
    PATH.write_text(wire_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
