"""Define the statements in words that a bundle of this version contains."""

from __future__ import annotations

STATEMENTS = {
    "claims": [
        "Each merchant's ledger is whole, in order and signed; each charge was written before anything left.",
        "Every epsilon follows from the charges' sampling rates, noise, steps and betas. A training's is "
        "proved by privacy loss distributions; a lifetime's is what a filter counts, which holds for a "
        "server that chooses each training after seeing the results of those before.",
        "Epsilon is that of the server's view, for the noise of the fewest merchants that a sum may hold, "
        "less the colluders assumed; beside it stands the one that would be left if aggregation were broken.",
    ],
    "threat_model": [
        "A dishonest server that keeps everything it sees, together with as many merchants as the plan "
        "assumes: they may stop or poison a training. Neither is covered.",
        "It can't open a single merchant's update under kahe, open two overlapping sets of a round, loosen "
        "the noise, give two merchants two plans, or run its own code on a merchant.",
        "Dishonest merchants beyond that number, or a roster that nobody compared: then only the epsilon for "
        "broken aggregation holds. With none and ckks it is the only one from the start.",
        "Somebody on the network, who sees TLS traffic; and whoever reads the final model.",
    ],
    "assumptions": [
        "The merchants ran what they wrote down: the record can't show what code ran, or on which photos.",
        "At most the stated number of merchants side with the server, fakes included.",
        "The cryptography holds (Ed25519, SHA-256, and for the server's view the encryption of updates).",
    ],
    "exclusions": [
        "Choosing models and settings by trial: every training is charged, but what people conclude from its "
        "results is not.",
        "Metadata: who takes part, when, how long a reply takes, and the sizes of messages are visible.",
        "Metrics on merchants' photos: the software takes none; whoever publishes some adds to the loss.",
        "Copies: the same photo held by k merchants, or near-copies within one, multiply its loss.",
    ],
}
"""The bundle's statements; a bundle with any other text fails the check."""
