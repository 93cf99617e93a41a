"""What an architecture would cost on a device, predicted: arrays in, a posterior out; knows no model and runs no kernel."""

from surrogates.base import Prediction as Prediction
from surrogates.base import Surrogate as Surrogate
from surrogates.calibration import conformal_quantile as conformal_quantile
from surrogates.calibration import coverage as coverage
from surrogates.calibration import kendall_tau as kendall_tau
from surrogates.calibration import mape as mape
from surrogates.calibration import nll as nll
from surrogates.devices import DeviceSpec as DeviceSpec
from surrogates.devices import device as device
from surrogates.devices import devices as devices
from surrogates.kernel_table import KernelRow as KernelRow
from surrogates.kernel_table import KernelTable as KernelTable
from surrogates.learned import LatencySurrogate as LatencySurrogate
from surrogates.roofline import Operator as Operator
from surrogates.roofline import feature_matrix as feature_matrix
from surrogates.roofline import feature_names as feature_names
from surrogates.roofline import latencies_ms as latencies_ms
from surrogates.roofline import latency_ms as latency_ms
from surrogates.roofline import operators as operators
