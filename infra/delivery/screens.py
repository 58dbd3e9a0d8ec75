"""What a person sees: plans, deployments, checks and removals in plain words."""

from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from infra.delivery.destruction import Fated, Proof
from infra.delivery.plan import (
    PARAMETER_INTERRUPTS,
    WORDS,
    Action,
    Change,
    Likelihood,
    ParameterChange,
    Plan,
)
from infra.delivery.release import Packaged, Release
from infra.delivery.smoke import Check

_VERBS: dict[Action, tuple[str, str]] = {
    "add": ("+ added", "green"),
    "change": ("~ changed", "yellow"),
    "replace": ("± replaced", "red"),
    "may replace": ("± may be replaced", "yellow"),
    "remove": ("- removed", "red"),
    "import": ("+ taken over", "green"),
}
_LIKELY: dict[Likelihood, tuple[str, str]] = {
    "no": ("no", "green"),
    "possible": ("possible, see above", "yellow"),
    "yes": ("YES", "bold red"),
}
_VALUE = 48
_LISTED = 12
_OUTPUTS = ("ApiUrl", "ApiAuthorizer", "ApiKeyId", "DataBucketName", "ArtifactBucketName")


def packaged(result: Packaged) -> RenderableType:
    """What `package` made."""
    release = result.on_disk.release
    table = Table(box=None, show_header=True, pad_edge=False, header_style="dim")
    for name in ("artifact", "MB", "sha256", ""):
        table.add_column(name, justify="right" if name == "MB" else "left")
    new = {a.name for a in result.uploaded}
    for artifact in release.artifacts:
        table.add_row(
            artifact.name,
            f"{artifact.size / 1e6:.1f}" if artifact.size > 50_000 else "<0.1",
            artifact.sha256[:12],
            Text("uploaded", "green") if artifact.name in new else Text("there already", "dim"),
        )
    return Group(
        _release_line("packaged", release),
        Padding(table, (0, 0, 0, 2), expand=False),
        Text.assemble(("  bucket  ", "dim"), release.bucket),
        Text.assemble(("  folder  ", "dim"), str(result.on_disk.folder)),
    )


def _release_line(verb: str, release: Release) -> Text:
    line = Text.assemble(
        (verb, "green"), " release ", (release.version, "bold"), f" for {release.region}"
    )
    if release.dirty:
        line.append("  with changes that no commit describes", "yellow")
    return line


def plan(of: Plan) -> RenderableType:
    """A plan in plain words."""
    parts: list[RenderableType] = [_title(of)]
    if of.by_hand:
        parts += [
            Text("changed by hand since the last recorded deployment:", "yellow"),
            _parameters(of.by_hand),
        ]
    if of.empty:
        parts.append(Text("nothing would change", "green"))
        return Group(*parts)
    if of.parameters:
        parts += [Text("parameters", "bold"), _parameters(of.parameters)]
    parts.append(Text("resources", "bold"))
    parts += _first(of) if of.first else _changes(of)
    parts += _widenings(of)
    parts.append(_effect(of))
    return Group(*parts)


def _title(of: Plan) -> Text:
    if of.first:
        return Text.assemble(
            "plan: the first deployment of stack ", (of.stack, "bold"), ", ", (of.version, "bold")
        )
    return Text.assemble(
        "plan: stack ",
        (of.stack, "bold"),
        f" from {of.deployed or 'an unknown version'} to ",
        (of.version, "bold"),
    )


def _parameters(changes: Iterable[ParameterChange]) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    for change in changes:
        before = "(new)" if change.before is None else _value(change.before)
        after = "(no longer there)" if change.after is None else _value(change.after)
        meaning = PARAMETER_INTERRUPTS.get(change.name, "") if change.before is not None else ""
        table.add_row(
            change.name, Text(before, "dim"), Text("→", "dim"), Text(after), Text(meaning, "red")
        )
    return Padding(table, (0, 0, 0, 2), expand=False)


def _first(of: Plan) -> list[RenderableType]:
    counted = Counter(c.word for c in of.changes)
    table = Table.grid(padding=(0, 2))
    kinds = [f"{n} {_plural(word, n)}" for word, n in counted.most_common()]
    for row in range(0, len(kinds), 4):
        table.add_row(*kinds[row : row + 4])
    return [
        Text.assemble("  ", ("+ added", "green"), f"  {len(of.changes)}:"),
        Padding(table, (0, 0, 0, 4), expand=False),
    ]


def _changes(of: Plan) -> list[RenderableType]:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    relabelled = [c for c in of.changes if _only_metadata(c)]
    for change in of.changes:
        if change in relabelled:
            continue
        verb, style = _VERBS[change.action]
        table.add_row(
            Text(verb, style), Text(change.word), Text(change.name, "bold"), _what(change)
        )
    parts: list[RenderableType] = [Padding(table, (0, 0, 0, 2), expand=False)]
    if relabelled:
        parts.append(
            Padding(
                Text(
                    f"and {len(relabelled)} that change in nothing but their metadata in the template",
                    "dim",
                ),
                (0, 0, 0, 2),
                expand=False,
            )
        )
    if of.routine:
        parts.append(
            Padding(
                Text("and, as with every deployment, a new snapshot of the API", "dim"),
                (0, 0, 0, 2),
                expand=False,
            )
        )
    if of.follows:
        names = [c.name for c in of.follows]
        shown = ", ".join(names[:_LISTED])
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        parts.append(
            Padding(
                Text(f"looked at again because they refer to these: {shown}{more}", "dim"),
                (0, 0, 0, 2),
            )
        )
    return parts


def _only_metadata(change: Change) -> bool:
    return change.action == "change" and {p.name for p in change.properties} == {"Metadata"}


def _what(change: Change) -> Text:
    words = Text()
    for i, each in enumerate(change.properties):
        words.append(", " if i else "")
        words.append(each.name)
        if each.before is not None or each.after is not None:
            words.append(f" {_value(each.before or '')} → {_value(each.after or '')}", "dim")
    if change.meaning:
        words.append("\n" if change.properties else "")
        certain = change.alarming and change.action != "may replace"
        words.append(change.meaning, "red" if certain else "yellow")
    return words


def _widenings(of: Plan) -> list[RenderableType]:
    if not of.widenings:
        return []
    holders = list(dict.fromkeys(w.holder for w in of.widenings))
    if of.first:
        return [
            Text.assemble(("permissions", "bold")),
            Text(
                f"  {len(of.widenings)} grants to {len(holders)} new roles and policies; each is in "
                "docs/security.md"
            ),
        ]
    parts: list[RenderableType] = [Text("permissions that widen", "bold yellow")]
    parts += [
        Text.assemble("  ", (w.holder, "bold"), " may ", (w.allows, "yellow"))
        for w in of.widenings[: 2 * _LISTED]
    ]
    if len(of.widenings) > 2 * _LISTED:
        parts.append(Text(f"  and {len(of.widenings) - 2 * _LISTED} more: see --json", "dim"))
    return parts


def _effect(of: Plan) -> Text:
    return Text.assemble(
        ("effect ", "bold"),
        " data loss: ",
        _LIKELY[of.loses_data],
        "   interruption: ",
        _LIKELY[of.interrupts],
    )


def outputs(of: Mapping[str, str]) -> RenderableType:
    """The outputs a person needs next."""
    return all_of({name: of[name] for name in _OUTPUTS if name in of})


def all_of(of: Mapping[str, str]) -> RenderableType:
    """Names and values below each other."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in of.items():
        table.add_row(Text(name, "dim"), Text(value))
    return Padding(table, (0, 0, 0, 2), expand=False)


def check(of: Check) -> RenderableType:
    """One line of `smoke`; a long finding wraps below itself."""
    marks = {"ok": ("✓", "green"), "failed": ("✗", "bold red"), "not checked": ("–", "yellow")}
    head = Text.assemble(
        "  ", marks[of.verdict], f" {of.name:<18}", (f"{of.seconds:6.1f} s  ", "dim")
    )
    found = Text("not checked: ", "yellow") if of.verdict == "not checked" else Text()
    grid = Table.grid()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(head, found.append(of.found, "default"))
    return grid


def fates(stack: str, of: list[Fated], *, releases: int, data: bool) -> RenderableType:
    """What goes and what stays."""
    goes = [f for f in of if f.fate == "goes"]
    stays = [f for f in of if f.fate == "stays"]
    counted = Counter(f.word for f in goes)
    parts: list[RenderableType] = [
        Text.assemble("removing stack ", (stack, "bold")),
        Text.assemble(("goes", "bold red"), f"   {len(goes)} resources"),
        Padding(
            Text(", ".join(f"{n} {_plural(w, n)}" for w, n in counted.most_common())), (0, 0, 0, 7)
        ),
    ]
    parts += [
        Padding(Text(f"logs {f.resource.identifier}", "dim"), (0, 0, 0, 7), expand=False)
        for f in goes
        if f.resource.kind == "AWS::Logs::LogGroup"
    ]
    if stays:
        table = Table(box=None, show_header=False, pad_edge=False)
        for _ in range(3):
            table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for f in stays:
            leaves = data and f.resource.kind in ("AWS::S3::Bucket", "AWS::DynamoDB::Table")
            table.add_row(
                Text("goes, too (DATA=1)", "bold red") if leaves else Text("stays", "bold green"),
                f.word,
                Text(f.resource.identifier),
                Text(f.holds, "dim"),
            )
        parts.append(table)
    parts.append(
        Text.assemble(
            ("stays", "bold green"),
            f"  {releases} {_plural('release', releases)} and the records of deployments, in the "
            "bucket for artifacts",
        )
    )
    return Group(*parts)


def proofs(of: list[Proof]) -> RenderableType:
    """What was found afterwards."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for proof in of:
        if proof.found == "not looked at":
            continue
        style = "bold red" if proof.wrong else "green" if proof.found == "gone" else "yellow"
        table.add_row(
            Text(proof.found, style),
            WORDS.get(proof.resource.kind, proof.resource.kind),
            Text(proof.resource.name, "bold"),
            Text(proof.resource.identifier, "dim"),
        )
    rest = [p for p in of if p.found == "not looked at"]
    parts: list[RenderableType] = [Padding(table, (0, 0, 0, 2), expand=False)]
    if rest:
        reasons = Counter(p.how for p in rest)
        words = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
        parts.append(Padding(Text(f"not looked for: {words}", "dim"), (0, 0, 0, 2), expand=False))
    return Group(*parts)


def _plural(word: str, count: int) -> str:
    if count == 1:
        return word
    if word.endswith("y"):
        return f"{word[:-1]}ies"
    head, preposition, rest = word.partition(" of ")
    if preposition:
        return f"{_plural(head, count)}{preposition}{rest}"
    head, preposition, rest = word.partition(" to ")
    return f"{head}s{preposition}{rest}"


def _value(text: str) -> str:
    shown = text if len(text) <= _VALUE else f"{text[: _VALUE - 1]}…"
    return shown or "(empty)"
