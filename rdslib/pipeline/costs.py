"""What runs cost in FLOPs: as measured here, and by the paper's formula."""

from __future__ import annotations

from rdslib.methods import get_extractor, get_scorer
from rdslib.methods.features import split_feature
from rdslib.models.flops import CostModel, training_flops
from rdslib.pipeline import steps
from rdslib.pipeline.pipeline import ALL, Pipeline, Request
from rdslib.pipeline.step import Step


def measured(pipeline: Pipeline, request: Request) -> float:
    """FLOPs that the features of a selection took, of its pool and its tasks' queries, and preparations.

    2N a token forward and 6N a token of training, with N the non-embedding parameters of the model that did
    it, and the tokens that were really processed.
    """
    wanted = steps_of(pipeline, request)
    pipeline.compute(wanted)
    return sum(float(pipeline.store.manifest(step)["counts"]["flops"]) for step in wanted)


def steps_of(pipeline: Pipeline, request: Request) -> list[Step]:
    """The steps whose FLOPs add up to a selection's."""
    # Features of one extractor come from one pass.
    passes = {split_feature(feature)[0]: feature for feature in get_scorer(request.method).features}
    return [step for feature in passes.values() for step in _of_feature(pipeline, feature, request)]


def _of_feature(pipeline: Pipeline, feature: str, request: Request) -> list[Step]:
    maker = get_extractor(feature)
    found = []
    for task in (None, *request.targets):
        read = pipeline.read_by(request.method, task, request.pool)
        if feature in read:
            drawn = task is None and not maker.per_pool
            found.append(_cost(pipeline, read[feature], request.pool if drawn else ALL))
    if maker.prepares:
        for task in request.targets if maker.per_task else (None,):
            found.append(pipeline.preparation(feature, request.pool, task))
        on = maker.prepare_pool(pipeline.settings, request.pool)
        # What the preparation reads, of the pool that it prepares on.
        found += [_cost(pipeline, pipeline.features(each), on or ALL) for each in maker.prepare_features]
    return found


def _cost(pipeline: Pipeline, features: Step, pool: str) -> Step:
    """FLOPs of features: of all their samples, or, of the whole pool's, of those of a smaller one."""
    return steps.cost.step(
        label=f"FLOPs of {features.label}", weight=0.1, features=features, draw=pipeline.draws[pool]
    )


def by_formula(pipeline: Pipeline, request: Request, epochs: int) -> float:
    """What the paper's formula (Appendix E) gives for selection and training, with our model and pool.

    Every sample counts as 2,048 tokens, as in the paper; NaN for a method whose cost it does not give.
    """
    scorer, settings = get_scorer(request.method), pipeline.settings
    parameters = pipeline.store.manifest(pipeline.model)["counts"]["non_embedding_parameters"]
    cost = CostModel(parameters=parameters, epochs=epochs)
    for feature in scorer.features:
        maker = get_extractor(feature)
        if maker.prepares:
            task = request.targets[0] if maker.per_task else None
            counts = pipeline.store.manifest(pipeline.preparation(feature, request.pool, task))["counts"]
            on = maker.prepare_pool(settings, request.pool)
            cost = maker.cost_model(cost, settings, counts, pipeline.pool_size(on) if on else 0)
    selection = scorer.paper_flops(pipeline.pool_size(request.pool), request.k, cost)
    return training_flops(request.k, cost) + selection
