"""Training of supernets."""

from nas.training.recipe import TrainingRecipe as TrainingRecipe
from nas.training.supernet_options import check_options as check_options
from nas.training.supernet_options import run_recipe as run_recipe
from nas.training.supernet_options import run_supernet as run_supernet
from nas.training.trained import TrainedSupernet as TrainedSupernet
from nas.training.trained import check_supernet as check_supernet
from nas.training.trained import embedded_path as embedded_path
from nas.training.trained import embedded_tokenizer as embedded_tokenizer
from nas.training.trained import load_trained as load_trained
from nas.training.trained import reuse_supernet as reuse_supernet
from nas.training.trained import train_supernet as train_supernet
from nas.training.trainer import TrainingDiverged as TrainingDiverged
from nas.training.trainer import train as train
