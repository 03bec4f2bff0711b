"""Decoding strategies of next-token models by name; listing them imports nothing heavy."""

from visgen.registry import Registry

STRATEGIES = Registry(
    "decoding strategy",
    {
        "sequential": "visgen.decoding.sequential:Sequential",
        "sjd": "visgen.decoding.jacobi:SpeculativeJacobi",
        "jacobi": "visgen.decoding.jacobi:CoupledJacobi",
        "speculative": "visgen.decoding.speculative:Speculative",
        "lantern": "visgen.decoding.lantern:Lantern",
        "recycling": "visgen.decoding.recycling:TokenRecycling",
    },
)

__all__ = ["STRATEGIES"]
