"""Networks and backbones by name. To add a network, write a file and add a line to NETWORKS."""

from models.backbones import BACKBONES
from models.dfc import DFCDeepLabV3Plus
from models.mmseg import MMSegDeepLabV3Plus, MMSegPSPNet
from models.plain_unet import PlainUNet
from models.siamese import FCN, DeepLabV3Plus, Network, PSPNet, UNet, UNetPlusPlus
from models.siamese_unet import SiameseUNet
from models.tfinet import TFINet

__all__ = ["BACKBONES", "NETWORKS"]

NETWORKS: dict[str, type[Network]] = {
    "fcn": FCN,
    "pspnet": PSPNet,
    "deeplabv3plus": DeepLabV3Plus,
    "unet": UNet,
    "unetplusplus": UNetPlusPlus,
    "tfinet": TFINet,
    "siamese_unet": SiameseUNet,
    "dfc_deeplabv3plus": DFCDeepLabV3Plus,
    "plain_unet": PlainUNet,
    "mmseg_pspnet": MMSegPSPNet,
    "mmseg_deeplabv3plus": MMSegDeepLabV3Plus,
}
