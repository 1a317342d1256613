"""Define the policy file that ``fedrec client init`` writes; its comments explain every rule."""

TEMPLATE = """\
# The rules of this merchant. A training that breaks a rule is refused, and the refusal names the rule.
# A line that starts with '#' is a comment. A rule that is left out has the value shown here.

# The privacy budget of all trainings together; it is never refunded. Both lines are required.
# The budget is checked by a filter that also holds if the server chooses each training after it has seen the
# results of the last one (docs/accounting.md). A training that is alone in the budget is counted about an
# eighth above its own epsilon. A training is joined only if all its rounds fit; 'fedrec client status' shows
# the cap that a refused training needs.
lifetime_epsilon = 10.0
lifetime_delta = 1e-5

# The largest epsilon of one training, for all its rounds and at lifetime_delta, whatever delta its plan
# names. The default plan has 8. A training with a larger epsilon would use nearly all of the lifetime budget.
largest_training_epsilon = 8.0
# The largest delta that a plan may name (no limit by default). A delta above 1 / (records of the training) is
# refused by every policy.
# largest_training_delta = 1e-5

# The allowed privacy modes, and the allowed schemes of secure aggregation. With schemes = ["kahe"] alone,
# secure aggregation is required, and no single merchant holds a key.
modes = ["distributed", "local"]
schemes = ["kahe"]

# The allowed units of differential privacy: one photo ("record"), or one product with its photos ("product").
units = ["record", "product"]

# Whether a training may end with a round of site figures: how many records of each class there are at all
# merchants together, how often the model is right about them, and its mean loss, noised, summed and charged
# as any other round. Every record takes part in it, whatever largest_sample_rate is (docs/site-figures.md).
site_figures = false

# The largest sampling rate, and the least noise multiplier (standard deviation / sensitivity) that is
# guaranteed in what the server sees. A value below 0.3 reveals almost all of a photo in a single round that
# uses it; plans for epsilon 8 have 0.5 and more. Any sampling rate is safe, because epsilon accounts for it.
largest_sample_rate = 1.0
least_noise_multiplier = 0.3

# The largest training. These limits are compared with the plan's numbers before anything is computed or
# allocated, so that no plan can use up this machine's memory or time.
# Noised steps, rounds x local_steps: all of them are composed into the budget before a training starts.
largest_steps = 2000
# Parameters of the model. A step needs about 60 bytes for each, so 2 GB here; resnet18 has 11 million.
largest_parameters = 30000000
# Side of the pictures in pixels: the memory of a layer for one photo grows with its square. The frozen
# networks use 128 to 260.
largest_image_size = 320
# Memory of all model inputs in MiB: 4 bytes x the numbers of a record x views x the records of the largest
# merchant. 16384 is enough for 28,000 colour photos of 224 pixels, or 350,000 of 64, and for 1.6 million
# records of which a head takes 2,560 numbers.
largest_input_mib = 16384
# Classes of the model, such as a shop's categories. Their names are stored with every plan.
largest_classes = 1000

# The fewest merchants in an opened sum, and the fewest of them that the plan must assume to collude with the
# server (in 'distributed', and wherever updates are encrypted). In a sum of two merchants, each could
# subtract its own part and would have the other's.
least_contributors = 3
least_colluders = 1

# If a committee opens sums: its fewest members, how many corrupt members it must withstand, and the largest
# probability that the draw of its members selects more colluders than that. Three merchants have a committee
# of 3, and all three must answer; one corrupt member of it can't open anything. In large cohorts raise
# least_corrupt_members together with least_committee.
least_committee = 3
least_corrupt_members = 1
largest_seat_risk = 1e-8

# Witnesses are members of the committee without photos, such as an auditor or an association of merchants.
# The fewest seats that witnesses must hold; and the witnesses that this merchant knows, by their signing
# keys, which their owners tell by another channel than the operator. A plan must take all others to be
# corrupt: whoever runs enough witnesses opens single updates without any merchant.
least_witnesses = 0
# witness_keys = ["<64 hexadecimal digits>"]

# The allowed models by name, and their initial parameters by SHA-256 (any by default).
# models = ["cnn"]
# initial_models = ["<64 hexadecimal digits>"]

# The allowed models of packages that you installed beside fedrec, by the SHA-256 of their code, and heads on
# networks that you added with 'fedrec backbone add', by the SHA-256 of file and options. 'fedrec client
# check' shows both (none by default). A package's code runs with all permissions of this user: read it first.
# A network's file is data.
# model_code = ["<64 hexadecimal digits>"]

# The approved roster, by the roster_fingerprint that 'fedrec client join' shows (by default that of the join
# file).
# roster_fingerprint = "<64 hexadecimal digits>"

# New merchants without a meeting: how many merchants must vouch for a new one ('fedrec client vouch'), of
# those that this merchant approved itself by the fingerprint of a join file; at least least_colluders + 1, so
# that an honest one is among them. A merchant that was accepted so can't vouch here. By default there is no
# such number: a person approves every new merchant, by 'fedrec client join'.
# least_vouchers = 2

# A merchant that exchanged its identity key: "accept" the new one where the approved key signed it, or
# "by_hand" for an approval by fingerprint.
rotated_keys = "accept"

# The server, by the key that signs its receipts (by default that of the join file).
# server_key = "<64 hexadecimal digits>"

# The most rounds per day, and the hours in which rounds are answered (any by default). 'clock' is "utc" or
# "local" and gives the time zone of days and hours.
# largest_rounds_per_day = 100
# hours = ["22:00-06:00"]
clock = "utc"

# The largest share of a training's rounds that may be charged to this merchant and then be lost, without an
# opened sum. A lost round is recognised by the next round, which starts from the same model. If more rounds
# are lost, a participant disturbs the training, or the training learns nothing.
largest_lost_share = 0.5

# Send an upload this many seconds after its request, or as soon as it is ready if that is later. Without this
# rule it is sent at once, and its duration shows the server about how many photos this merchant has.
# reply_seconds = 60.0

# Close a training and delete its keys after this many days without a request from the server. As a member of
# the committee, refuse a plan whose upload window isn't shorter.
training_expires_days = 30

# Photos that were added since the last charge. A training goes on with the photos that it began with; the
# next one uses the new photos too ("count_together"): the ledger counts all photos together, so what was
# spent holds for the new ones as if they had been there from the start. "refuse" leaves new photos out of
# every training. The server is told neither. A deleted photo needs no rule: no step uses it.
changed_data = "count_together"

# A command to run when a training starts ("training-started") or ends ("training-ended"), or when something
# needs your decision, such as a training that a rule refuses ("decision-needed"). It is run as it stands
# here, never through a shell, with that word as its last argument and a JSON object on its standard input,
# and is killed after on_event_seconds. It is told no key and nothing of your photos.
# on_event = ["/usr/bin/notify-send", "fedrec"]
# on_event_seconds = 30.0
"""
