"""Sums up which lines were reached, from an lcov file: by module, and by file where less than 95 % were."""

import re
import sys
from pathlib import Path

MODULES = {
    "raft": "src/raft/",
    "log": "src/storage/log/",
    "storage": "src/storage/",
    "machine": "src/machine/",
    "mvcc": "src/mvcc/",
    "watch": "src/watch/",
    "lease": "src/lease/",
    "server": "src/server/",
}
# Drivers of tests: not part of the server.
LEFT_OUT = re.compile(r"/tests?/|tests?\.rs$|_tests\.rs$|script\.rs$|model\.rs$|golden\.rs$|/fixtures/")


def test_lines(path):
    """The lines of a file from its `mod tests {` on, and of items that only planted defects or tests have."""
    text = Path(path).read_text().splitlines()
    for number, line in enumerate(text, 1):
        if line.startswith("#[cfg(test)]") and number < len(text) and "mod " in text[number]:
            if "{" in text[number]:
                return number
    return len(text) + 1


def planted(path):
    """The lines of blocks that only a planted defect enters: this build carries none."""
    lines, found = Path(path).read_text().splitlines(), set()
    for at, line in enumerate(lines):
        block = re.search(r"if .*mutant!\(\"\w+\"\).*\{$", line) and "!crate::mutant" not in line
        # A function of a planted defect's own says so in its first words.
        function = at > 0 and re.match(r"\s*/// What mutant \w+ ", lines[at - 1]) and " fn " in line
        if block or function:
            depth = len(line) - len(line.lstrip())
            for number in range(at + 1, len(lines)):
                found.add(number + 1)
                if len(lines[number]) - len(lines[number].lstrip()) == depth:
                    break
    return found


def main():
    root = str(Path.cwd()) + "/"
    files, name = {}, None
    for line in open(sys.argv[1]):
        key, _, value = line.strip().partition(":")
        if key == "SF":
            name = value.removeprefix(root)
            files.setdefault(name, {})
        elif key == "DA":
            number, times = (int(n) for n in value.split(",")[:2])
            files[name][number] = max(files[name].get(number, 0), times)
    rows = []
    for name, lines in files.items():
        if not name.startswith("src/") or LEFT_OUT.search(name):
            continue
        end, unreachable = test_lines(name), planted(name)
        own = {n: t for n, t in lines.items() if n < end and n not in unreachable}
        missed = sorted(n for n, t in own.items() if t == 0)
        rows.append((name, len(own), missed))
    for module, prefix in MODULES.items():
        of = [row for row in rows if row[0].startswith(prefix)]
        total, missed = sum(row[1] for row in of), sum(len(row[2]) for row in of)
        print(f"{module:<10} {100 * (total - missed) / max(total, 1):6.1f} %  of {total} lines")
    print("\nfiles below 95 %, and their lines that nothing reached:")
    for name, total, missed in sorted(rows, key=lambda row: -len(row[2])):
        wanted = any(name.startswith(prefix) for prefix in MODULES.values())
        if wanted and total and len(missed) * 20 > total:
            print(f"{name:<44} {100 * (total - len(missed)) / total:5.1f} %  {spans(missed)}")


def spans(numbers):
    """Consecutive numbers as spans."""
    parts, start, last = [], None, None
    for number in [*numbers, None]:
        if start is not None and (number is None or number != last + 1):
            parts.append(str(start) if start == last else f"{start}-{last}")
            start = None
        if start is None:
            start = number
        last = number
    return " ".join(parts)


main()
