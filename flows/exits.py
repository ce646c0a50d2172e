"""What every command's exit code means, for its --help; README says it at more length."""

EXITS = (
    "exit codes: 0 done, 1 failed, 2 params.yaml or a flag, 3 the data, 4 refused by the gate, "
    "5 busy, or another was first, 130 and 143 stopped"
)
