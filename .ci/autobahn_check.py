"""Compares an Autobahn report (index.json) with what is expected: autobahn_check.py REPORT EXPECTED [--write].

The file of expected results has, for every case, the behaviour of the case itself and of its closing handshake. Where
NON-STRICT is expected, OK will do too: there a message comes right before a broken frame, and whether its echo, a round trip
through a logic service, overtakes the Close is a matter of timing.
"""

import collections
import json
import pathlib
import sys

# What the suite calls passed; everything else is a failure and can't be expected.
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}


def main():
    report_file, expected_file = map(pathlib.Path, sys.argv[1:3])
    [report] = json.loads(report_file.read_text()).values()
    actual = {case: {key: result[key] for key in ("behavior", "behaviorClose")} for case, result in report.items()}
    expected = json.loads(expected_file.read_text()) if expected_file.exists() else {}
    chapters = {chapter(case) for case in actual}
    if "--write" in sys.argv:
        write(expected_file, {case: result for case, result in expected.items() if chapter(case) not in chapters} | actual)
        return
    failures = [f"{case}: {result}" for case, result in sorted(actual.items(), key=by_number)
                if not set(result.values()) <= PASSED]
    wanted = {case: result for case, result in expected.items() if chapter(case) in chapters}
    failures += [f"{case}: expected {wanted.get(case)}, got {actual.get(case)}"
                 for case, _ in sorted((wanted | actual).items(), key=by_number)
                 if not meets(actual.get(case), wanted.get(case))]
    print("\n".join(failures))
    counts = collections.Counter(result["behavior"] for result in actual.values())
    print(f"{len(actual)} cases of {', '.join(sorted(chapters, key=int))}: {dict(counts)}, all as expected" if not failures
          else f"{len(failures)} differences")
    sys.exit(bool(failures) or not actual)


def meets(actual, expected):
    if actual is None or expected is None:
        return False
    return all(actual[key] == expected[key] or (actual[key], expected[key]) == ("OK", "NON-STRICT") for key in expected)


def chapter(case):
    return case.split(".")[0]


def by_number(item):
    return [int(part) for part in item[0].split(".")]


def write(file, results):
    lines = [f'  "{case}": {json.dumps(result)}' for case, result in sorted(results.items(), key=by_number)]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
