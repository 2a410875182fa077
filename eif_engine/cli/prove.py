"""`python -m eif_engine prove`: does a confusion come apart when the model is retrained as its ranking says?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from eif_engine.cases import Case, load_case
from eif_engine.cli.inputs import add_files, add_queries, select_queries
from eif_engine.cli.output import write_text
from eif_engine.cli.prove_table import summary
from eif_engine.config import InfluenceConfig, Metric, PublishedSteps, UnitStep
from eif_engine.counterfactual_config import Action, ProofConfig, RetrainConfig, RetrainOptimizer, Reweighting
from eif_engine.errors import InvalidInput
from eif_engine.jobs.counterfactual_report import CounterfactualReport
from eif_engine.jobs.methods import rank_by
from eif_engine.jobs.prove import prove
from eif_engine.method_config import Method
from eif_engine.types import Query

EIF = "EIF"
EPILOG = """\
Each arm retrains the head from the checkpoint over the same batches; gains are against `none`, retrained on the
training set as it is. A gain above 0: the confusion came apart because of the change.
Writes JSON: the settings, and for every query the distance and recall@1 of every arm.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "prove",
        help="retrain as the ranking of a confusion says, and see whether it comes apart",
        description="Counterfactual check of rankings: reweight or relabel, retrain the head, measure.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_files(parser, out="OUT.json")
    add_queries(parser, pairs="5")
    _add_ranking(parser.add_argument_group("the ranking"))
    _add_change(parser.add_argument_group("the change"))
    _add_retraining(parser.add_argument_group("the retraining"))
    parser.set_defaults(run=run)


def _add_ranking(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--metric", choices=[*Metric], type=Metric, default=Metric.IDENTITY, help="of the head weight")
    group.add_argument("--damping", type=float, default=10.0, help="of the kfac metric (default 10)")
    group.add_argument("--radius", type=float, default=0.2, help="length of the way (default 0.2)")
    group.add_argument("--steps", type=int, default=20, help="steps that it is taken in (default 20)")
    group.add_argument("--published", action="store_true", help="the published 50 plain steps of 1e-3 instead")
    group.add_argument(
        "--compare",
        nargs="*",
        choices=[method.value for method in Method if method is not Method.EIF],
        default=[Method.PUBLISHED_IF.value],
        metavar="METHOD",
        help="rankings beside, of the same size: %(choices)s (default published_if; none where empty)",
    )


def _add_change(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--top-k", type=_top_k, default=50, help="samples of each end, or `all` of a sign (default 50)")
    group.add_argument("--harmful-weight", type=float, default=0.0, help="of harmful samples (default 0)")
    group.add_argument("--helpful-weight", type=float, default=2.0, help="of helpful samples (default 2)")
    group.add_argument("--relabel", action="store_true", help="relabel harmful samples by their neighbours instead")
    group.add_argument("--random", type=int, default=5, metavar="DRAWS", help="random changes beside (default 5)")


def _add_retraining(group: argparse._ArgumentGroup) -> None:
    defaults = RetrainConfig()
    group.add_argument("--epochs", type=int, default=defaults.epochs, help="(default 1)")
    group.add_argument(
        "--optimizer",
        choices=[*RetrainOptimizer],
        type=RetrainOptimizer,
        default=defaults.optimizer,
        help="(default adam)",
    )
    group.add_argument("--lr", type=float, default=defaults.learning_rate, help="learning rate (default 1e-3)")
    group.add_argument("--batch-size", type=int, default=defaults.batch_size, help="(default 64)")
    group.add_argument("--seed", type=int, default=defaults.seed, help="of batches and random changes (default 0)")
    group.add_argument("--freeze-proxies", action="store_true", help="train the head only, not the proxies")


def run(args: argparse.Namespace) -> int:
    """Prove and print."""
    influence, proof = influence_config(args), proof_config(args)
    case = load_case(args.case)
    queries = select_queries(case, args)
    reports = check(case, queries, influence, proof, args.compare)
    written = {"influence": asdict(influence), "proof": asdict(proof), "queries": [asdict(each) for each in reports]}
    write_text(args.out, json.dumps(written, indent=1) + "\n")
    console = Console(highlight=False)
    if reports:
        console.print(summary(reports))
    console.print(f"{escape(str(args.out))}: {len(reports)} queries")
    return 0


def influence_config(args: argparse.Namespace) -> InfluenceConfig:
    """How the ranking is made.

    Raises:
        InvalidInput: An option is out of range.
    """
    try:
        if args.published:
            return InfluenceConfig(step=PublishedSteps(), num_thetas=1, normalize=False)
        return InfluenceConfig(
            step=UnitStep(radius=args.radius, steps=args.steps), metric=args.metric, damping=args.damping
        )
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def proof_config(args: argparse.Namespace) -> ProofConfig:
    """What is changed and how the head is retrained.

    Raises:
        InvalidInput: An option is out of range.
    """
    try:
        return ProofConfig(
            action=Action.RELABEL if args.relabel else Action.REWEIGHT,
            reweighting=Reweighting(top_k=args.top_k, harmful=args.harmful_weight, helpful=args.helpful_weight),
            retrain=RetrainConfig(
                epochs=args.epochs,
                optimizer=args.optimizer,
                learning_rate=args.lr,
                batch_size=args.batch_size,
                seed=args.seed,
                train_proxies=not args.freeze_proxies,
            ),
            random_draws=args.random,
        )
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def check(
    case: Case, queries: Sequence[Query], influence: InfluenceConfig, proof: ProofConfig, compare: Sequence[str]
) -> list[CounterfactualReport]:
    """A report a query, with a progress bar on a terminal."""
    rankings = {EIF: _ranked(case, queries, influence, Method.EIF)}
    rankings |= {method: _ranked(case, queries, influence, Method(method)) for method in compare}
    reports = prove(
        head=case.head,
        loss=case.loss,
        train_features_NF=case.train_features_NF,
        train_labels_N=case.train_labels_N,
        test_features_MF=case.test_features_MF,
        test_labels=case.test_labels,
        queries=queries,
        rankings=rankings,
        config=proof,
    )
    console = Console(stderr=True)
    return list(track(reports, "queries", total=len(queries), console=console, disable=not console.is_terminal))


def _ranked(
    case: Case, queries: Sequence[Query], influence: InfluenceConfig, method: Method
) -> list[NDArray[np.float64]]:
    ranked = rank_by(
        method,
        head=case.head,
        loss=case.loss,
        train_features_NF=case.train_features_NF,
        train_labels_N=case.train_labels_N,
        test_features_MF=case.test_features_MF,
        queries=queries,
        config=influence,
    )
    return [scores_N for _, scores_N in ranked]


def _top_k(text: str) -> int | None:
    return None if text == "all" else int(text)
