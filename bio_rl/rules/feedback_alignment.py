"""Feedback alignment: random feedback supports learning because the forward weights come to agree with it."""

from bio_rl.mechanisms.feedback_weights import RandomFeedback


class FeedbackAlignment(RandomFeedback):
    """Errors descend layer by layer through fixed random weights.

    Args:
        feedback_scale: the size of the feedback weights, 1 for that of fresh forward weights.

    Raises:
        ValueError: a ``feedback_scale`` that is not positive.
    """

    paper = "Lillicrap, Cownden, Tweed & Akerman 2016, Random synaptic feedback weights support error backpropagation"
    ngrad = "none"
    weight_transport = False
    separate_phases = False
    error_neurons = False
    extra_sweeps = False
    nonlocal_scalars = ""
