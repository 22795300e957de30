"""What a trainer's log shows.

formats      files of logs, read into records
bars         the same for progress bars with numbers behind them
stated       settings that the text of a log states
tensorboard  the same for TensorBoard's event files
log          a log as columns, for training pairs and for held-out ones
evidence     what the checks share
beginnings   checks of the first rows, and of logs on which nothing moves
losses       checks of the loss
movement     checks of rewards: displacement, collapse, separable data
settings     beta and the loss, from the user, the text and the numbers
checks       all of them, in order
pictures     the picture of a log
"""
