"""What differs between transformer families, each in a folder behind `dsd.backbones.stock.StockBackbone`."""
