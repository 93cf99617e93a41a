"""What each command of the command line does; :mod:`nas.cli` only parses."""

from nas.commands.fronts import front_run as front_run
from nas.commands.overview import doctor as doctor
from nas.commands.overview import spaces as spaces
from nas.commands.profiling import profile_device as profile_device
from nas.commands.reporting import report_run as report_run
from nas.commands.searching import search_run as search_run
from nas.commands.serving import join_search as join_search
from nas.commands.serving import serve_storage as serve_storage
from nas.commands.training import train as train
from nas.commands.tuning import default_table as default_table
from nas.commands.tuning import tune_device as tune_device
from nas.commands.winners import materialize_run as materialize_run
from nas.commands.winners import verify_run as verify_run
