#!/usr/bin/env bash
# math-verify finds numbers equal that differ by a factor of billions, where both are small: 1.6 x 10^-19 and 9.1 x 10^-31.
#
# One would expect: the charge and the mass of an electron are told apart, as 1.6 and 9.1 are; at most the last of some significant digits is forgiven.
# What happens:     verify(gold, answer) is True for products such as 1.6 \times 10^{-19} against 9.1 \times 10^{-31}, and for 0.0000002 against 0.0000003.
#                   Where one of both is a plain float, both are rounded to 6 decimal places; otherwise the difference goes through evalf(chop=True), which
#                   makes zero of what is small.
# Why it matters:   a model that is rewarded by it is paid for any small number in physics and chemistry, whatever its size or sign.
# Source:           math_verify/grader.py, sympy_numeric_eq; seen by running this.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check math-verify==0.9.0 latex2sympy2_extended==1.11.0 antlr4-python3-runtime==4.13.2 sympy==1.14.0
venv/bin/python - <<'PY'
import sys

from math_verify import parse, verify

PAIRS = {
    ("1.6 \\times 10^{-19}", "9.1 \\times 10^{-31}"): True,
    ("6.6 \\times 10^{-34}", "1.0 \\times 10^{-34}"): True,
    ("0.0000002", "0.0000003"): True,
    ("1.6 \\times 10^{19}", "9.1 \\times 10^{19}"): False,
    ("1.6", "9.1"): False,
}
seen = {pair: verify(parse(f"${pair[0]}$"), parse(f"${pair[1]}$")) for pair in PAIRS}
print("math-verify 0.9.0: verify(gold, answer)")
for (gold, answer), equal in seen.items():
    print(f"  {gold:22} {answer:22} {equal}")
sys.exit(0 if seen == PAIRS else "the behaviour has changed")
PY
