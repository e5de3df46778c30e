"""Evaluate a model from Python, and read the results with pandas, polars and DuckDB.

python -m experiments.examples.evaluate_model [--output runs/example]
"""

import argparse
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
from rich.console import Console

from foolbox_carescale.evaluate import AttackConfig, Evaluation, evaluate, print_report


def main(arguments: list[str] | None = None) -> dict[tuple[str, float], float]:
    """Return robust accuracy by attack and epsilon."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/example"))
    options = parser.parse_args(arguments)

    epsilons = [0.3, 0.6]
    results = evaluate(
        Evaluation(  # the bundled model and digits; ModelConfig and DataConfig choose others
            attacks={
                "noise": AttackConfig("L2ClipAwareGaussianNoise", epsilons),
                "foolbox_pgd": AttackConfig("L2PGD", epsilons, params={"steps": 10}),
                "clip_aware_pgd": AttackConfig("L2ClipAwarePGD", epsilons, params={"steps": 10}),
            },
            samples=20,
            output=str(options.output),
        )
    )
    print_report(results, Console())

    frame = pd.read_parquet(options.output / "results")
    print(frame.groupby(["attack", "epsilon"], observed=True)["robust"].mean().unstack())

    rows = pl.read_parquet(options.output / "results" / "*.parquet")
    print(rows.group_by("attack", "epsilon").agg(pl.col("robust").mean()).sort("attack", "epsilon"))

    files = f"read_parquet('{options.output}/results/*.parquet')"
    # the samples that withstand only Foolbox's attack
    print(
        duckdb.sql(
            f"SELECT a.epsilon, count(*) AS missed FROM {files} a JOIN {files} b "
            "USING (sample, epsilon) WHERE a.attack = 'foolbox_pgd' "
            "AND b.attack = 'clip_aware_pgd' AND a.robust AND NOT b.robust "
            "GROUP BY ALL ORDER BY ALL"
        )
    )
    return {(row.attack, row.epsilon): row.robust_accuracy for row in results.summary()}


if __name__ == "__main__":
    main()
